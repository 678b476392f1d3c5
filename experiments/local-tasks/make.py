"""lm-eval task files that read local JSON-lines copies of the data sets, for machines without the Hub.

    python experiments/local-tasks/make.py DATA_DIR OUT_DIR [TASK ...]

DATA_DIR holds NAME.SPLIT.jsonl or NAME.SPLIT.jsonl.gz (hellaswag.validation.jsonl.gz, arc_easy.test.jsonl ...) with
the fields that the data set has on the Hub. OUT_DIR gets one TASK_local.yaml for each task, to be given as
``evaluation.include_path=OUT_DIR evaluation.tasks=[hellaswag_local,...]``; prompts and metrics are lm-eval's own.
"""

import argparse
import sys
from pathlib import Path

import yaml

# task -> file of its lm-eval definition, stem of the data files, splits that the definition reads
TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", ("validation",)),
    "piqa": ("piqa/piqa.yaml", "piqa", ("validation",)),
    "winogrande": ("winogrande/default.yaml", "winogrande_xl", ("validation",)),
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy", ("test", "validation")),
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge", ("test", "validation")),
    "lambada_openai": ("lambada/lambada_openai.yaml", "lambada_openai", ("test",)),
}
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def main() -> int:
    """Write the files; names what is missing and exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    args = parser.parse_args()
    unknown = [task for task in args.tasks if task not in TASKS]
    if unknown:
        sys.stderr.write(f"error: {unknown[0]}: allowed are {', '.join(TASKS)}\n")
        return 2
    try:
        files = {f"{task}_local.yaml": _task(task, args.data) for task in args.tasks}
    except FileNotFoundError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (args.out / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"evaluation.include_path={args.out.absolute()}\n")
    sys.stdout.write(f"evaluation.tasks=[{','.join(name.removesuffix('.yaml') for name in files)}]\n")
    return 0


def _task(task: str, data: Path) -> str:
    import lm_eval.tasks

    definition, stem, splits = TASKS[task]
    original = Path(lm_eval.tasks.__file__).parent / definition
    found = {split: str(_data_file(data, stem, split)) for split in splits}
    settings = {
        "include": str(original),
        "task": f"{task}_local",
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": found},
    }
    given = yaml.load(original.read_text(encoding="utf-8"), Loader=_Loader)
    for key in _SPLITS:  # a split without a file here would be looked for
        if given.get(key) is not None and given[key] not in found:
            settings[key] = None
    return yaml.safe_dump(settings, sort_keys=False)


def _data_file(data: Path, stem: str, split: str) -> Path:
    for suffix in (".jsonl", ".jsonl.gz"):
        path = (data / f"{stem}.{split}{suffix}").absolute()
        if path.is_file():
            return path
    raise FileNotFoundError(f"{data / stem}.{split}.jsonl[.gz]: no such file")


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's files, whose ``!function`` values do not matter here."""


_Loader.add_constructor("!function", lambda loader, node: None)


if __name__ == "__main__":
    sys.exit(main())
