"""The catalogue's words in Chinese; what is a method's own stands in its card."""

from __future__ import annotations

LABELS = {
    "method": "方法", "title": "名称", "layer": "作用层", "cost": "开销", "owns": "独占资源",
    "avoid when": "不宜使用", "needs": "所需数据", "placements": "可用时段", "phase": "适用阶段",
    "data": "适用数据", "tier": "级别", "status": "状态", "paper": "论文", "uses": "共用资源",
    "companions": "须搭配", "setting": "设置项", "default": "默认值", "range": "取值范围",
}  # fmt: skip
LAYERS = {
    "batch source": "批次来源", "input mixing": "输入混合", "target transform": "标签变换",
    "adversarial input": "对抗输入", "consistency": "一致性正则", "teacher": "教师模型",
    "model noise": "模型噪声", "objective": "训练目标", "sharpness": "锐度", "gradient": "梯度",
    "weights": "权重", "average": "权重平均", "statistics": "统计量", "prediction": "预测",
}  # fmt: skip
RESOURCES = {
    "evaluation weights": "评估所用权重", "objective": "训练目标", "hard targets": "硬标签",
    "input mixing": "输入混合", "moved inputs": "输入扰动", "unlabelled stream": "无标签数据流",
    "second gradient": "第二次求梯度", "backward": "反向传播", "batch statistics": "批统计量",
    "learning rate": "学习率", "last layer": "最后一层",
}  # fmt: skip
PLACEMENTS = {
    "anytime": "任意时段", "from the start only": "只能从训练开始时使用",
    "observer": "仅旁观，不影响训练",
}  # fmt: skip
STATUSES = {"stable": "稳定", "experimental": "实验性"}
BY_FACT = {
    "layer": LAYERS, "owns": RESOURCES, "uses": RESOURCES, "placements": PLACEMENTS,
    "status": STATUSES,
}  # fmt: skip
RANGES = {"one of ": "可选 ", "a whole number in ": "整数，范围 ", "any": "任意"}
FOOTER = "共 {count} 种方法；whet methods NAME --lang zh 查看某一种的详情"
DOCUMENTED = "以下为英文文档："


def term(fact: str, value: str) -> str:
    """A layer, resource, placement or status; what has no translation stays as it is."""
    return BY_FACT.get(fact, {}).get(value, value)


def span(text: str) -> str:
    """A setting's range.

    >>> span("a whole number in [1, inf)")
    '整数，范围 [1, inf)'
    """
    for english, chinese in RANGES.items():
        if text.startswith(english):
            return chinese + text.removeprefix(english)
    return text
