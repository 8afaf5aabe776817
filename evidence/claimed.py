"""What the articles claim, in their order, and what the studies say of it."""

from evidence.claims import Claim, everywhere

PARTS = ("ag_news_adversarial", "intents_adversarial")
HEADS = [
    f"cosface:scale=16:margin={margin}{data}"
    for data in ("@data=0.01", "@data=0.1", "") for margin in ("0.35", "0")
]  # fmt: skip

CLAIMED = [
    Claim(
        "R-Drop never hurts",
        "no study finds a loss.",
        arms=everywhere("r_drop"),
        conclusion=(
            "No loss is shown in eight studies, and no gain either. On Fashion-MNIST and Adult a "
            "difference beyond the margin is ruled out. On Mammography the 95 % interval of the "
            "loss leaves zero out; among so many arms that is not enough for a verdict."
        ),
    ),
    Claim(
        "EMA with a decaying rate works every time",
        "every study finds a gain; the rate decays by a cosine in all of them.",
        arms=everywhere("ema"),
        conclusion=(
            "Not found: no gain in any of eight studies, and within the margin on Fashion-MNIST "
            "and Adult. A cosine has brought the rate near zero by the end of each training, so "
            "that the average and the last weights are much alike. It does no harm."
        ),
    ),
    Claim(
        "EMA slows training, or hardly does",
        "the time per update with it is above 1.",
        arms=everywhere("ema"),
        conclusion=(
            "It costs little: what it adds to an update is a few per cent here, and one copy of "
            "the weights. Its update alone takes 1.05 times what reading and writing the weights "
            "takes (`make bench`)."
        ),
    ),
    Claim(
        "SWA is free",
        "it takes no time, and no study finds a loss.",
        arms=everywhere("swa"),
        conclusion=(
            "Supported as far as this goes: no pass and no loss shown, but no gain either. The "
            "cosine schedule runs on to near zero beneath it."
        ),
    ),
    Claim(
        "MixUp helps locally sensitive tasks such as audio, few others",
        "a gain on fsdd, none on the images.",
        arms=dict.fromkeys(("fsdd", "fashion_mnist", "cifar10"), ("mixup", "cutmix")),
        conclusion=(
            "Not supported here: no gain on fsdd, nor on the images; CutMix hurts on all three. "
            "These trainings last seconds and end before a network of this size overfits, which "
            "is what mixing is against."
        ),
    ),
    Claim(
        "Focal loss helps rare classes",
        "a gain in average precision on mammography, of whose rows 2.3 % are positive.",
        arms={"mammography": ("focal",)},
        conclusion=(
            "Not supported here: no gain in average precision is shown, and the mean is a loss."
        ),
    ),
    Claim(
        "Margin softmax helps when data are few, not when they are many",
        "CosFace with its margin gains on a hundredth and a tenth of the training rows, and not on "
        "all of them.",
        "the baseline on the same rows; the cosine head without a margin beside it",
        arms={"intents_margins": HEADS, "fashion_mnist_margins": HEADS},
        conclusion=(
            "Found on Intents, with 77 classes: +7.6 points on a hundredth of the rows, about one "
            "a class, and nothing shown on all. Most of it is the cosine head's own, +4.9 points "
            "without a margin; on a tenth that head alone helps. Not found on Fashion-MNIST, with "
            "ten classes: there the margin gains nothing on few rows and costs 1.8 points on all."
        ),
    ),
    Claim(
        "Domain post-training helps far domains, not news",
        missing="masked pre-training of a language model is not there yet.",
    ),
    Claim(
        "Adversarial training helps little but steadily, and hurts at the very start",
        "FGM and PGD gain from a quarter on and in the last quarter, more than noise of the same "
        "norm does, and lose in the first quarter.",
        "the baseline; random noise of the same norm beside it",
        arms={
            name: [f"{method}{at}" for at in ("@start", "", "@end")
                   for method in ("fgm", "pgd", "random_noise")]
            for name in PARTS
        },
        conclusion=(
            "Not shown: neither gain nor loss in any part, and noise of the same norm does as "
            "much as far as five seeds tell. By the means the order is the claimed one "
            "from a quarter on (FGM and PGD above noise)."
        ),
    ),
    Claim(
        "Semi-supervised methods work best late",
        "FixMatch gains more in the last quarter than in the first or over the whole.",
        "the baseline; strong augmentation of the labelled rows alone, at the same cost, beside it",
        arms={
            "few_labels": [f"fixmatch:mu=2{control}{at}" for at in ("@start", "", "@end")
                           for control in ("", ":control=true")]
        },
        conclusion=(
            "Contradicted here: in the last quarter it hurts by more than six points, and in no "
            "part a gain is shown. Its pseudo-labels come from 250 labelled rows and 400 updates. "
            "What helps is strong augmentation alone, in the first quarter; over the whole of "
            "training its mean gain is larger and not shown."
        ),
    ),
    Claim(
        "Different initialisations ensemble better than different snapshots",
        "four members of four initialisations gain over four snapshots of one training that is "
        "four times as long; both cost the same.",
        "the snapshots; one long training, which costs as much, beside both",
        joined=(
            "four initialisations beside four snapshots",
            "four initialisations beside one long training",
            "four snapshots beside one long training",
        ),
        conclusion=(
            "Not shown in accuracy, on any of three data sets; on Intents the log loss of the "
            "initialisations is lower. What is shown is that ensembles beat one training of the "
            "same cost: the initialisations in accuracy on two data sets, the snapshots on one, "
            "and both in log loss on two, by 0.2 and more."
        ),
    ),
    Claim(
        "Different augmentations can be ensembled",
        "four members that are augmented in different ways, of different initialisations, gain "
        "over four members of other initialisations alone.",
        "four initialisations without augmentation, and of the one augmentation that is best on "
        "the select part",
        joined=(
            "four augmentations beside four initialisations",
            "four augmentations beside the best one of them, four initialisations",
        ),
        conclusion=(
            "They can be, and nothing in accuracy is shown to be gained by it over members that "
            "differ in their initial weights; on CIFAR-10 the mean is a loss of a point. The log "
            "loss is higher where some members are mixed (MixUp, CutMix), which are less sure, and "
            "lower on Intents."
        ),
    ),
    Claim(
        "Distillation helps small models, at a temperature of about 5",
        "a gain for a student with a sixteenth of the weights, the largest at T = 5.",
        arms={"small_student": [f"distillation:temperature={t}" for t in (1, 2, 5, 10)]},
        conclusion=(
            "Not shown with five seeds; T = 5 has the largest mean gain of the four temperatures."
        ),
    ),
    Claim(
        "A larger test resolution helps, less so the larger the training size",
        "at every training size a larger test gains, and the gain shrinks as that size grows.",
        "the same networks tested at the size that they were trained at",
        sizes="by_size",
        conclusion=(
            "Not shown: neither gain nor loss at any of six training sizes, and no shrinking. Five "
            "seeds of small networks trained for 400 (CIFAR-10) and 300 updates (TrashNet). What "
            "does matter is that a test size leaves the same remainder by the network's total "
            "stride (8 on CIFAR-10): trained at 24 pixels it reaches 43.8 % at 24, 39.6 % at 28 "
            "and 44.4 % at 32. On TrashNet the stride is 32, and each test here changes the "
            "remainder."
        ),
        quoted="the articles print 82.18 at 224 pixels, 82.22 at 256 and 82.26 at 320.",
    ),
    Claim(
        "FixRes adds to that",
        "tuned for r, networks are better there than without, and than networks trained at r for "
        "as much work.",
        "the same networks before they are tuned; training at r from the start with as much work",
        sizes="contrasts",
        conclusion=(
            "Not shown with five seeds: by the means it adds half a point on CIFAR-10 and three "
            "quarters of a point on TrashNet. It beats training at r for as much work by five "
            "points on both; but these trainings are short, and at r as much work is fewer "
            "updates (65 % and 72 %), so that this speaks of length as much as of FixRes."
        ),
        quoted=(
            "the paper (arXiv:1906.06423) has a ResNet-50 trained at 224 pixels at 77.0 when it "
            "is tested at 224, and at 79.0 when it is tuned and tested at 384."
        ),
    ),
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
