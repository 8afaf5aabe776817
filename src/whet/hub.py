"""Predictors on a hub: a folder with `model.safetensors`, `config.json` and a model card.

Those are the files by which the Hugging Face hub knows a model. Weights are safetensors, the rest
is JSON and text: nothing that is fetched is run or unpickled. The architecture stays code: whoever
loads a predictor builds the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from whet.checkpoint import write_whole
from whet.errors import InputError
from whet.predict import Predictor

WEIGHTS, CONFIG, CARD = FILES = ("model.safetensors", "config.json", "README.md")
LIBRARY = "whet"
INSTALL = "pip install 'whet[hub]'"
USE = """
```python
import whet

predictor = whet.from_pretrained({name!r}, model)  # model: of the architecture that was trained
probabilities = predictor(whet.Batch(inputs))
```
"""


def save_pretrained(
    predictor: Predictor, folder: str | Path, *, about: Mapping[str, Any] | None = None,
    card: str | None = None, name: str = "",
) -> Path:  # fmt: skip
    """Write a predictor as a hub holds it; each file whole or not at all.

    Args:
        predictor: what is saved.
        folder: where to; made where it is not there.
        about: plain values (JSON) for `config.json`, such as task, classes, metrics and recipe.
            `metrics`, as `{"judge": {"accuracy": 0.9}}`, and `task` stand in the model card, too.
        card: the model card's text (Markdown), in place of the one that is made of `about`.
        name: what the card calls the model: the folder's name where it is empty.

    Raises:
        InputError: `about` holds what is no plain value, or the library of the hub is missing.
    """
    place = Path(folder)
    its = {"family": predictor.family.name, "members": len(predictor.members())}
    describe(place, {**its, **(about or {})}, card=card, name=name)
    predictor.save(place / WEIGHTS)
    return place


def describe(
    place: Path, about: Mapping[str, Any], *, card: str | None = None, name: str = ""
) -> None:
    """Write what stands beside the weights: `config.json` and the model card."""
    told = {"library_name": LIBRARY, "whet_version": metadata.version(LIBRARY), **about}
    try:
        config = json.dumps(told, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"about holds what JSON does not: {error}. Give plain values.") from error
    text = _card(told, name or place.name) if card is None else card
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / CONFIG, (config + "\n").encode())
    write_whole(place / CARD, text.encode())


def from_pretrained(
    name: str | Path, model: nn.Module | Callable[[], nn.Module] | None = None, *,
    revision: str | None = None, token: str | bool | None = None,
    cache_dir: str | Path | None = None, force_download: bool = False,
    local_files_only: bool = False, trusted: Sequence[str] = (),
) -> Predictor:  # fmt: skip
    """A predictor from a folder, or from a repository of the hub.

    Args:
        name: a folder that `save_pretrained` or `whet fit` wrote, or a repository, `owner/name`.
        model: of the architecture that was trained, or a function that builds it; None where all
            members are scikit-learn estimators.
        revision: a branch, tag or commit of the repository.
        token: for repositories that are not public; True takes the one that is stored.
        cache_dir: where downloads are kept.
        force_download: also what is there already.
        local_files_only: download nothing.
        trusted: types that scikit-learn estimators in it may hold, as for `Predictor.load`.

    Raises:
        InputError: there is no such folder or repository, or it holds no predictor.
        CheckpointError: it was trained with another architecture, or holds types not to be trusted.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _fetched(
            str(name), revision=revision, token=token, cache_dir=cache_dir,
            force_download=force_download, local_files_only=local_files_only,
        )  # fmt: skip
    if not (folder / WEIGHTS).is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise InputError(f"{name} holds no {WEIGHTS}; there is: {there}.")
    built = model if model is None or isinstance(model, nn.Module) else model()
    return Predictor.load(folder / WEIGHTS, built, trusted=trusted)


def push_to_hub(
    source: Predictor | str | Path, repository: str, *, about: Mapping[str, Any] | None = None,
    card: str | None = None, private: bool | None = None, token: str | bool | None = None,
    revision: str | None = None, message: str = "Upload a predictor of whet",
    create_pr: bool = False,
) -> str:  # fmt: skip
    """Upload a predictor, or a folder that `save_pretrained` wrote, in one commit.

    Nothing but the three files is uploaded, whatever else lies in the folder.

    Args:
        source: what is uploaded.
        repository: `owner/name`; made where it is not there.
        about: of a predictor, see `save_pretrained`.
        card: of a predictor, see `save_pretrained`.
        private: whether a new repository is; the hub's own rule where nothing is said.
        token: of the hub; the stored one where nothing is said.
        revision: the branch.
        message: of the commit.
        create_pr: propose it instead.

    Returns:
        The commit's address.

    Raises:
        InputError: the folder lacks a file, the library of the hub is missing, or the hub does
            not take it.
    """
    from tempfile import TemporaryDirectory

    if isinstance(source, Predictor):
        with TemporaryDirectory() as place:
            save_pretrained(source, place, about=about, card=card, name=repository)
            return push_to_hub(
                place, repository, private=private, token=token, revision=revision,
                message=message, create_pr=create_pr,
            )  # fmt: skip
    folder = Path(source)
    lacking = [file for file in FILES if not (folder / file).is_file()]
    if lacking:
        raise InputError(
            f"{folder} lacks {', '.join(lacking)}: write it with whet.save_pretrained(predictor, "
            "folder), or name the predictor itself."
        )
    api = _library().HfApi(token=token, library_name=LIBRARY)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=list(FILES), revision=revision,
            commit_message=message, create_pr=create_pr,
        )  # fmt: skip
    except Exception as error:  # whatever the library's transport raises
        raise InputError(
            f"{repository} could not be uploaded: {_first(error)}. Log in with `hf auth login` or "
            "set HF_TOKEN; a repository is OWNER/NAME."
        ) from error
    return str(done.commit_url)


def _fetched(name: str, **given: Any) -> Path:
    hub = _library()
    try:
        return Path(
            hub.snapshot_download(name, allow_patterns=list(FILES), library_name=LIBRARY, **given)
        )
    except (hub.errors.HFValidationError, hub.errors.HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{name} is no folder here, and no repository that could be fetched: {_first(error)}"
        ) from error


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _card(about: Mapping[str, Any], name: str) -> str:
    """A model card: the hub's header, what was trained, how good it is, how it is used."""
    hub = _library()
    task = about.get("task") or {}
    title = str(task.get("title") or task.get("name") or name) if isinstance(task, dict) else task
    found = [
        hub.EvalResult(
            task_type=_kind(about["family"]), dataset_type=str(title), dataset_name=str(title),
            dataset_split=part, metric_type=metric, metric_value=value,
        )
        for part, values in (about.get("metrics") or {}).items() for metric, value in values.items()
    ]  # fmt: skip
    header = hub.ModelCardData(
        library_name=LIBRARY, tags=[LIBRARY, str(about["family"])], model_name=name,
        eval_results=found or None,
    )  # fmt: skip
    rows = [f"| {r.dataset_split} | {r.metric_type} | {r.metric_value:.4g} |" for r in found]
    table = ["", "| part | metric | value |", "|---|---|---|", *rows] if rows else []
    methods = [str(each.get("name", each)) for each in about.get("methods") or ()]
    said = [f"Trained on {title}.", f"Methods: {', '.join(methods) or 'none'}."]
    if about["members"] > 1:
        said.append(f"The mean of {about['members']} members.")
    body = "\n".join([f"# {name}", "", *said, *table, "", "## Use", USE.format(name=name)])
    return f"---\n{header.to_yaml()}\n---\n\n{body}"


def _kind(family: str) -> str:
    return {"tokens": "token-classification", "real": "tabular-regression"}.get(
        family, "classification"
    )


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f"the hub's library is not installed: {INSTALL}") from error
    return huggingface_hub
