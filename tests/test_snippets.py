"""Pages in two languages show the same code; what the README says of others is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import whet
from tests.methods.traps import trap
from whet.methods import catalogue
from whet.study.chinese import term

ROOT = Path(__file__).parent.parent
TWINS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    (ROOT / "docs" / "snippets.md", ROOT / "docs" / "zh" / "snippets.md"),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
twins = pytest.mark.parametrize(("english", "chinese"), TWINS, ids=lambda page: page.name)


class Silent(ast.NodeTransformer):
    """Every string empty."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node


def silent(code: str) -> str:
    return ast.unparse(Silent().visit(ast.parse(code)))


def commands(code: str) -> list[str]:
    return [line.split("#")[0].rstrip() for line in code.splitlines()]


def blocks(page: Path) -> list[str | list[str]]:
    found = BLOCK.findall(page.read_text("utf-8"))
    return [silent(code) if kind == "python" else commands(code) for kind, code in found]


def rows(page: Path) -> list[str]:
    """First cells of the rows that are code: the tables of methods and commands."""
    return re.findall(r"^\| (`[^|]+`) \|", page.read_text("utf-8"), re.MULTILINE)


def test_only_comments_and_strings_are_left_out() -> None:
    assert silent("x = 'a'  # b") == silent("x = 'c'")
    assert silent("x = 1") != silent("x = 2")


@twins
def test_code_is_the_same_in_both_languages(english: Path, chinese: Path) -> None:
    ours, theirs = blocks(english), blocks(chinese)
    assert len(ours) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert one == other


def test_both_readmes_name_the_same_methods_and_commands() -> None:
    english, chinese = TWINS[0]
    assert rows(english) == rows(chinese)
    assert "`ema`" in rows(english)


def test_the_chinese_readme_has_the_words_of_the_cards() -> None:
    text = (ROOT / "README.zh.md").read_text("utf-8")
    for entry in catalogue():
        title, cost = entry["zh"]["title"], entry["zh"]["cost"]
        row = f"| `{entry['name']}` | {title} | {term('layer', entry['layer'])} | {cost} |"
        assert row in text, f"README.zh.md's table of methods lacks: {row}"


@twins
def test_pages_in_two_languages_point_to_each_other(english: Path, chinese: Path) -> None:
    for page, other in ((english, chinese), (chinese, english)):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
        assert other.resolve() in {(page.parent / link).resolve() for link in links}


@pytest.mark.parametrize(
    ("library", "called"),
    [
        ("lightning", "Lightning"), ("transformers", "transformers"),
        ("pytorch-metric-learning", "pytorch-metric-learning"),
    ],
)  # fmt: skip
def test_the_comparison_is_of_the_versions_that_are_pinned(library: str, called: str) -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    [version] = re.findall(rf"^{library}==(\S+)$", pins, re.MULTILINE)
    for page in TWINS[0]:
        assert f"{called} {version}" in page.read_text("utf-8"), "look at the new version again"


# accumulation elsewhere: rows of the last window, batches of 8 and 2 rows after 4 of 8 rows -------
ROWS, CLASSES = torch.eye(42), torch.zeros(42, dtype=torch.long)
Shares = list[float]


def zeros() -> nn.Linear:
    """Row i has column i of the weights for itself: its gradient shows the row's share."""
    layer = nn.Linear(42, 2, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class Seen(torch.optim.SGD):
    """Notes the shares of the last window's rows at each step."""

    shares: Shares

    def step(self, closure: Any = None) -> None:
        if closure is not None:
            with torch.enable_grad():
                closure()
        [weight] = self.param_groups[0]["params"]
        self.shares = (2 * weight.grad[1, 32:]).tolist()
        super().step()


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(ROWS, CLASSES), batch_size=8)


def lightnings(folder: Path) -> Shares:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = zeros()

        def training_step(self, batch: Any, number: int) -> Tensor:
            return F.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            self.seen = Seen(self.parameters(), lr=0.1)
            return self.seen

    module = Module()
    lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=4, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, loader())  # fmt: skip
    return module.seen.shares


def transformers_(folder: Path) -> Shares:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = zeros()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.layer(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class InOrder(Trainer):
        def get_train_dataloader(self) -> Any:
            return [{"x": x, "labels": y} for x, y in loader()]

    model = Model()
    optimizer = Seen(model.parameters(), lr=0.1)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1.0)
    settings = TrainingArguments(
        str(folder), per_device_train_batch_size=8, gradient_accumulation_steps=4,
        num_train_epochs=1, max_grad_norm=0.0, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    InOrder(model, settings, train_dataset=[0] * 42, optimizers=(optimizer, constant)).train()
    return optimizer.shares


def accelerates(folder: Path) -> Shares:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    layer = zeros()
    optimizer = Seen(layer.parameters(), lr=0.1)
    model, outer, batches = accelerator.prepare(layer, optimizer, loader())
    for x, y in batches:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            outer.step()
            outer.zero_grad()
    AcceleratorState._reset_state(reset_partial_state=True)
    return optimizer.shares


def whets(folder: Path) -> Shares:
    layer = zeros()
    optimizer = Seen(layer.parameters(), lr=0.1)
    stack = whet.Stack(layer, "categorical", optimizer=optimizer)
    micros = [whet.Batch(x, y) for x, y in loader()]
    for at in range(0, len(micros), 4):
        stack.step(micros[at : at + 4])
    return optimizer.shares


@pytest.mark.filterwarnings("ignore")  # theirs, about workers and logging
@pytest.mark.parametrize(
    ("library", "first", "last"),
    [
        (lightnings, 1 / 32, 1 / 8), (accelerates, 1 / 32, 1 / 8),
        (transformers_, 1 / 16, 1 / 4), (whets, 1 / 10, 1 / 10),
    ],
)  # fmt: skip
def test_what_the_readme_says_of_the_last_window(
    library: Callable[[Path], Shares], first: float, last: float, tmp_path: Path
) -> None:
    assert library(tmp_path) == pytest.approx([first] * 8 + [last] * 2)


@trap(right=whets, wrong=accelerates)
def test_the_last_window_weighs_as_any_other(library: Callable[[Path], Shares]) -> None:
    assert sum(library(Path())) == pytest.approx(1.0)
