"""Secrets are masked before anything is written, by name, by place in a URL, and by shape; what is ordinary is left as it is."""

import pytest
from pydantic import JsonValue

from esper.masking import MASK, is_secret_name, mask_arguments, mask_text, mask_values

# Put together here, so that no scanner of secrets takes this file for a leak.
GITHUB = "ghp" + "_" + "a1B2c3D4e5" * 4
FACE = "hf" + "_" + "AbCdEfGhIj" * 3
OPENAI = "sk" + "-proj-" + "a1b2c3d4e5f6" * 3
AWS = "AKIA" + "IOSFODNN7EXAMPL1"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".dBjftJeZ4CVP"
SLACK = "xoxb" + "-123456789012-abcdef"


@pytest.mark.parametrize(
    ("given", "masked"),
    [
        (["--token", "abc"], ["--token", MASK]),
        (["--hf_token", "abc", "--epochs", "3"], ["--hf_token", MASK, "--epochs", "3"]),
        (["-token", "abc"], ["-token", MASK]),
        (["--password=hunter2"], [f"--password={MASK}"]),
        (["--password=two words"], [f"--password={MASK}"]),
        (["--db-password", "hunter2"], ["--db-password", MASK]),
        (["--password", "-Xk3!"], ["--password", MASK]),
        (["API_KEY=abc"], [f"API_KEY={MASK}"]),
        (["PGPASSWORD=abc", "train"], [f"PGPASSWORD={MASK}", "train"]),
        (["wandb.api_key=abc"], [f"wandb.api_key={MASK}"]),
        (["+secrets.token=abc"], [f"+secrets.token={MASK}"]),
        (["--apiKey", "abc"], ["--apiKey", MASK]),
        (["--api-keys", "a1", "b2", "--n", "3"], ["--api-keys", MASK, MASK, "--n", "3"]),
        (["--aws-secret-access-key", "abc"], ["--aws-secret-access-key", MASK]),
        (["-H", "Authorization: Bearer abc123def456"], ["-H", f"Authorization: Bearer {MASK}"]),
        (["-H", "X-Api-Key: 1a2b3c4d"], ["-H", f"X-Api-Key: {MASK}"]),
        (['{"token": "abc", "lr": 0.1}'], [f'{{"token": "{MASK}", "lr": 0.1}}']),
        (["postgres://ada:hunter2@db:5432/runs"], [f"postgres://ada:{MASK}@db:5432/runs"]),
        (["--db=mysql://ada:p@ss@db/runs"], [f"--db=mysql://ada:{MASK}@db/runs"]),
        ([f"https://{'0123456789abcdef' * 2}@o1.ingest.sentry.io/1"], [f"https://{MASK}@o1.ingest.sentry.io/1"]),
        (["https://x.blob.core.windows.net/a?sv=1&sig=abcdefghijklmnop1"], [f"https://x.blob.core.windows.net/a?sv=1&sig={MASK}"]),
        (["https://host/x?access_token=abc&page=2"], [f"https://host/x?access_token={MASK}&page=2"]),
        (["Server=db;Password=hunter2;Timeout=3"], [f"Server=db;Password={MASK};Timeout=3"]),
        (["DefaultEndpointsProtocol=https;AccountKey=abc123==;X=1"], [f"DefaultEndpointsProtocol=https;AccountKey={MASK};X=1"]),
        ([GITHUB], [MASK]),
        ([f"--model={FACE}"], [f"--model={MASK}"]),
        ([OPENAI, AWS, JWT, SLACK], [MASK] * 4),
        (["https://hooks.slack.com/services/T000/B000/XXXXXXXX"], [f"https://hooks.slack.com/services/{MASK}"]),
    ],
)
def test_secret_on_a_command_line_is_masked(given: list[str], masked: list[str]) -> None:
    assert list(mask_arguments(given)) == masked


@pytest.mark.parametrize(
    "arguments",
    [
        ["esper", "train", "digits", "--epochs", "80", "--set", "gate.cooldown=10"],
        ["--pad-token", "<pad>", "--eos_token", "2", "--mask-token=[MASK]"],
        ["--max-tokens", "512", "--num_tokens=64", "--tokens", "a", "b"],
        ["--tokenizer", "bert-base", "--token-dim", "64"],
        ["--key", "image", "--sort-key=loss", "--rng-key", "7", "--label_key", "y"],
        ["--password-file", "/run/secrets/db", "--token-env", "HF_TOKEN"],
        ["--token", "--verbose"],
        ["--no-password", "yes", "--use_auth_token=True"],
        ["--lr=3e-4", "--betas", "0.9,0.999", "--resume", "019e2c5a-1b2c-7def-8a9b-0123456789ab"],
        ["--revision", "5353a94e0c1f4b6a8d2e7f3c9b1a0d5e6f7a8b9c", "--out=/data/run-1"],
        ["https://host:8080/path?page=2", "ssh://git@github.com/a/b", "kafka://one:9092,two:9092", "ada@example.org"],
        ["--auth-mode", "none", "--passes", "3", "--secretary", "Ada", "--author", "Grace"],
        ["--note", "Basic understanding of the token: embedding"],
        ["--keyboard", "x", "--monkey=1", "--passenger", "7", "--cookies-per-batch", "3"],
    ],
)
def test_ordinary_arguments_are_left_as_they_are(arguments: list[str]) -> None:
    assert list(mask_arguments(arguments)) == arguments


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ('API_KEY = "abc123"', f'API_KEY = "{MASK}"'),
        ("login(password='hunter2', user='ada')", f"login(password='{MASK}', user='ada')"),
        ('os.environ["WANDB_API_KEY"] = "abc"', f'os.environ["WANDB_API_KEY"] = "{MASK}"'),
        ('def connect(password: str = "hunter2"):', f'def connect(password: str = "{MASK}"):'),
        (f'login("{FACE}")', f'login("{MASK}")'),
        ('url = "postgres://ada:hunter2@db/x"', f'url = "postgres://ada:{MASK}@db/x"'),
    ],
)
def test_secret_in_code_is_masked_where_it_is_quoted(line: str, masked: str) -> None:
    assert mask_text(line, code=True) == masked


@pytest.mark.parametrize(
    "line",
    [
        "password = getpass()",
        "token = tokens[0]",
        "token=batch.token2",
        'pad_token = "<pad>"',
        'if token == "the":',
        'key = "image"',
        'model = AutoModel.from_pretrained("bert", use_auth_token=True)',
        "d = {'lr': 0.1, 'key': 'x'}",
    ],
)
def test_code_without_secrets_is_left_as_it_is(line: str) -> None:
    assert mask_text(line, code=True) == line


def test_secret_in_a_settings_file_is_masked_without_quotes() -> None:
    text = "+db:\n+  user: ada\n+  password: hunter\n+export HF_TOKEN=abc\n+epochs: 3\n"
    assert mask_text(text) == f"+db:\n+  user: ada\n+  password: {MASK}\n+export HF_TOKEN={MASK}\n+epochs: 3\n"


def test_private_key_is_masked_whole_even_if_it_is_cut() -> None:
    head, lines = "-----BEGIN RSA PRIVATE " + "KEY-----", "MIIEow\nabc\n"
    assert mask_text(f"a\n{head}\n{lines}-----END RSA PRIVATE KEY-----\nb") == f"a\n{MASK}\nb"
    assert mask_text(f"a\n{head}\n{lines}") == f"a\n{MASK}"


def test_values_under_secret_names_are_masked_however_deep() -> None:
    given: JsonValue = {
        "lr": 0.1,
        "api_key": "abc",
        "db": {"password": 1234, "secrets": {"one": ["x"]}},
        "use_token": True,
        "url": "http://a:b@c/",
    }
    assert mask_values(given) == {
        "lr": 0.1,
        "api_key": MASK,
        "db": {"password": MASK, "secrets": {"one": [MASK]}},
        "use_token": True,
        "url": f"http://a:{MASK}@c/",
    }


def test_masking_twice_is_masking_once() -> None:
    once = mask_arguments(["--token", "abc", "API_KEY=x", "http://a:b@c/", GITHUB])
    assert mask_arguments(once) == once


@pytest.mark.parametrize(
    "name", ["token2", "TOKEN_1", "clientSecret", "MYSQL_PWD", "db.password", "SharedAccessKey", "cookie", "user-credentials"]
)
def test_name_of_a_secret(name: str) -> None:
    assert is_secret_name(name)
