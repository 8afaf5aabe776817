"""What the articles claim, in their order, and what the studies say of it."""

from evidence.claims import Claim, everywhere

PARTS = ("ag_news_adversarial", "intents_adversarial")
LATER = "the method is not there yet."

CLAIMED = [
    Claim(
        "R-Drop never hurts",
        "no study finds a loss.",
        arms=everywhere("r_drop"),
        conclusion="TODO",
    ),
    Claim(
        "EMA with a decaying rate works every time",
        "every study finds a gain; the rate decays by a cosine in all of them.",
        arms=everywhere("ema"),
        conclusion="TODO",
    ),
    Claim(
        "EMA slows training, or hardly does",
        "the time per update with it is above 1.",
        arms=everywhere("ema"),
        conclusion="TODO",
    ),
    Claim(
        "SWA is free",
        "it takes no time, and no study finds a loss.",
        arms=everywhere("swa"),
        conclusion="TODO",
    ),
    Claim(
        "MixUp helps locally sensitive tasks such as audio, few others",
        "a gain on fsdd, none on the images.",
        arms=dict.fromkeys(("fsdd", "fashion_mnist", "cifar10"), ("mixup", "cutmix")),
        conclusion="TODO",
    ),
    Claim(
        "Focal loss helps rare classes",
        "a gain in average precision on mammography, of whose rows 2.3 % are positive.",
        arms={"mammography": ("focal",)},
        conclusion="TODO",
    ),
    Claim("Margin softmax helps when data are few, not when they are many", missing=LATER),
    Claim(
        "Domain post-training helps far domains, not news",
        missing="masked pre-training of a language model is not there yet.",
    ),
    Claim(
        "Adversarial training helps little but steadily, and hurts at the very start",
        "FGM and PGD gain over the whole training and at its end, more than noise of the same "
        "norm does, and lose in the first quarter.",
        "the baseline; random noise of the same norm beside it",
        arms={
            name: [f"{method}{at}" for at in ("@start", "", "@end")
                   for method in ("fgm", "pgd", "random_noise")]
            for name in PARTS
        },
        conclusion="TODO",
    ),
    Claim(
        "Semi-supervised methods work best late",
        "FixMatch gains more in the last quarter than in the first or over the whole.",
        "the baseline; strong augmentation of the labelled rows alone, at the same cost, beside it",
        arms={
            "few_labels": [f"fixmatch:mu=2{control}{at}" for at in ("@start", "", "@end")
                           for control in ("", ":control=true")]
        },
        conclusion="TODO",
    ),
    Claim(
        "Different initialisations ensemble better than different snapshots",
        missing="a study compares single models so far; ensembles are not there yet.",
    ),
    Claim("Different augmentations can be ensembled", missing="ensembles are not there yet."),
    Claim(
        "Distillation helps small models, at a temperature of about 5",
        "a gain for a student with a sixteenth of the weights, the largest at T = 5.",
        arms={"small_student": [f"distillation:temperature={t}" for t in (1, 2, 5, 10)]},
        conclusion="TODO",
    ),
    Claim(
        "A larger test resolution helps, less so the larger the training size",
        missing="a sweep of resolutions is not there yet.",
    ),
    Claim("FixRes adds to that", missing="FixRes is not there yet."),
    Claim(
        "Accumulation changes batch normalisation",
        missing="it needs no study: statistics are those of a micro-batch, and a run says so when "
        "it begins. A study of arms that differ in their batches is not there yet.",
    ),
    Claim(
        "Prompts help in zero- and few-shot, and in ensembles",
        missing="language models that take prompts are not there yet.",
    ),
    Claim("Retrieval solves few-shot classification", missing="retrieval is not there yet."),
    Claim(
        "Multimodal pre-training is unstable, its ensembles are strong",
        missing="multimodal pre-training is not there yet.",
    ),
]  # fmt: skip
