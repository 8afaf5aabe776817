"""What a study's words must not tell, and what they must go on telling."""

import platform
import time

import pytest

from whet.study import redact, statistics, wording

KEY = "Zq8Jw2Lr5Tn9Xv3Bk7Pd"
SECRETS = [
    f"hf_{KEY}", f"ghp_{KEY}", f"github_pat_{KEY}_{KEY}", f"sk-proj-{KEY}", f"sk-{KEY}",
    f"glpat-{KEY}", f"xoxb-{KEY}", "AKIAIOSFODNN7EXAMPLE", f"AIza{KEY}{KEY}", f"npm_{KEY}{KEY}",
    f"eyJ{KEY}.{KEY}.{KEY}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{KEY}",
]  # fmt: skip
CARRIERS = [
    "token={}", "HF_TOKEN={}", "password={}", "api_key={}", "apiKey: {}", "--token {}",
    "--api-key={}", "wandb login --password '{}' now", "'password': '{}'", '"secret": "{}"',
    '{{\\"token\\": \\"{}\\"}}', "Authorization: Bearer {}", "Authorization: Basic {}==",
    "{{'Authorization': 'Bearer {}'}}", "authorization={}", "https://ann:{}@example.org/x",
    "https://{}@example.org/x", "AWS_SECRET_ACCESS_KEY={}", "https://x.org/?token={}&page=2",
    "client_secret = \"{}\"", "passphrase: {}", "X-Amz-Signature={}", "password=\"a b {}\"",
    "Bearer {}",
]  # fmt: skip
WORDS = ["before ", "(", "\n", "{'a': 1, ", "é", "密钥"]
ADMIN = "/" + "root"  # the home of a machine's administrator
KEPT = [
    "one class per token: targets (N, T)", "max_tokens=512", "mask_token=[MASK] pad_token=0",
    "token=None, password=False", "sk-learn-contrib-and-other", "hf_hub_download failed",
    "https://example.org/home/page", "src/home/view.py", f"a{ADMIN}/b", f"{ADMIN}ed", "x@y.org",
    "ema:decay=0.99:during=[0.25, 1]", "secretary = 3", "9615f1c0ffee00112233445566778899aabbccdd",
    "UsersGuide", "the key is missing: 'labels'", statistics.rule(),
]  # fmt: skip


@pytest.mark.parametrize("before", WORDS)
@pytest.mark.parametrize("secret", SECRETS)
def test_keys_go_wherever_they_stand(secret: str, before: str) -> None:
    told = redact.text(f"{before}{secret} after")
    assert KEY not in told
    assert "AKIA" not in told
    assert told.startswith(before)
    assert told.endswith(f"{redact.HIDDEN} after") or secret.endswith(f"---\n{KEY}")


@pytest.mark.parametrize("before", WORDS)
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("secret", ["Hunter-22.x/+_~tail", KEY])
def test_values_go_by_the_name_before_them(carrier: str, secret: str, before: str) -> None:
    secret = secret.replace("/", "") if "@" in carrier else secret  # which ends a URL's host
    told = redact.text(before + carrier.format(secret))
    assert secret not in told
    assert "tail" not in told
    assert redact.HIDDEN in told
    assert redact.text(told) == told


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/ann/data/x.csv", "~/data/x.csv"), (f"{ADMIN}/x", "~/x"), (f"'{ADMIN}'", "'~'"),
        ("/Users/ann/x", "~/x"), ("/mnt/c/Users/ann/x", "~/x"), ("/nfs/home/ann", "~"),
        (r"C:\Users\ann\x.py", r"~\x.py"), (r"C:\Users\Ann Lee\x.py", r"~\x.py"),
        (r"'c:\\Users\\ann\\x'", r"'~\\x'"), ("C:/Users/ann/x", "~/x"),
        (r"\\server\Users\ann\x", r"~\x"), ("file:///home/ann/x", "file://~/x"),
        (f"PATH=/usr/bin:/home/ann/bin:{ADMIN}/bin", "PATH=/usr/bin:~/bin:~/bin"),
        ('File "/home/ann/a b/t.py", line 3', 'File "~/a b/t.py", line 3'),
        ("whet study x --out=/home/ann/out", "whet study x --out=~/out"),
    ],
)  # fmt: skip
def test_home_folders_lose_their_names(path: str, told: str) -> None:
    assert redact.text(path) == told
    assert redact.text(told) == told


@pytest.mark.parametrize("said", KEPT)
def test_what_is_no_secret_stays(said: str) -> None:
    assert redact.text(said) == said


def test_this_home_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/data/people/ann")
    monkeypatch.setattr(platform, "node", lambda: "gpu7.lab.example.org")
    redact._here.cache_clear()
    try:
        said = "ann at gpu7: /data/people/ann/x on GPU7.lab.example.org, gpu70, my-gpu7, gpu7.lab"
        told = "ann at (host): ~/x on (host), gpu70, my-gpu7, (host)"
        assert redact.text(said) == told
    finally:
        redact._here.cache_clear()


@pytest.mark.parametrize("name", ["", "a", "vm", "localhost", "torch", "Whet"])
def test_a_machine_whose_name_tells_nothing(name: str) -> None:
    assert redact._machine(name) is None


def test_values_walks_what_is_nested_and_leaves_the_rest() -> None:
    given = {
        "reason": f"token={KEY}", "settings": [{"path": "/home/ann/x", "api_key": KEY}],
        "n": (1, None, True, 0.5), "password": 1234, "token": None, "mask_token": "[MASK]",
        f"hf_{KEY}": {"matrix": [[1, 2], [3, 4]]},
    }  # fmt: skip
    assert redact.values(given) == {
        "reason": "token=***", "settings": [{"path": "~/x", "api_key": "***"}],
        "n": [1, None, True, 0.5], "password": "***", "token": None, "mask_token": "[MASK]",
        "***": {"matrix": [[1, 2], [3, 4]]},
    }  # fmt: skip
    assert given["reason"] == f"token={KEY}"


@pytest.mark.parametrize(
    "part",
    ["a_", "token", "/a", "'", "token='", "-", "a", "a.", "a-", "--a-", "sk-", "eyJ-", "\\\\a",
     "C:\\Users\\a ", "://", "-----BEGIN PRIVATE KEY-----", "Bearer ", "/home/"],
)  # fmt: skip
def test_long_texts_take_no_time(part: str) -> None:
    began = time.process_time()
    redact.text(part * (60_000 // len(part)))
    assert time.process_time() - began < 5


class TestPlain:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31mred\x1b[0m", "red"), ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
            ("\x9b2Jgone", "gone"), ("a\x1b(Bb", "ab"), ("a\x1bPq...\x1b\\b", "ab"), ("\x1b", ""),
            ("a\x00\x02\x03\x08\x7fb", "ab"), ("a\u202eb\u2066c\u200bd\ufeffe", "abcde"),
            ("a\nb\tc\r\nd\re", "a b c d e"), ("\ud800", "?"), ("é\u200dx", "é\u200dx"),
            ("naïve 中文 ✓ a b", "naïve 中文 ✓ a b"), ("[bold]x[/]", "[bold]x[/]"),
            (f"hf_\x1b[0m{KEY}", "***"), (f"tok\u200ben={KEY}", "token=***"),
        ],
    )  # fmt: skip
    def test_nothing_acts_on_a_terminal(self, text: str, shown: str) -> None:
        assert wording.plain(text) == shown
        assert wording.plain(shown) == shown

    def test_lines_may_stay(self) -> None:
        assert wording.plain("a\r\n\tb\x1b[0m\rc", lines=True) == "a\n\tb\nc"

    @pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
    def test_no_control_character_is_left(self, code: int) -> None:
        shown = wording.plain(f"a{chr(code)}[2J{chr(code)}b", lines=True)
        assert [each for each in shown if ord(each) < 0x20 and each not in "\n\t"] == []
        assert not any(0x7F <= ord(each) < 0xA0 for each in shown)
