"""What MkDocs asks of this project: pages and tables, made from ``conf/`` and from docstrings anew for each build.

A method's page is its module's docstring, the comments of its yaml, and ``docs/methods/NAME.md`` where there is one.
Nothing is imported from genaug: docstrings are read from the sources, so that a build needs no PyTorch.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
CONF, METHODS = ROOT / "conf", "methods"
#: Pictures of the studies that pages show.
PICTURES = {"toybirds.jpg": ROOT / "experiments" / "toybirds" / "toybirds.jpg"}


@dataclass(frozen=True)
class Setting:
    """A value of a yaml as it is written there, and the comment beside it."""

    value: str
    comment: str


@dataclass(frozen=True)
class Option:
    """A yaml of ``conf/``, composed with those it begins with.

    Attributes:
        group: Its folder.
        stem: Its name.
        header: The comment that it begins with.
        parents: Files of its group that it begins with, the nearest first.
        choices: What it chooses of other groups, by ``group`` or by ``group@place``.
        own: What it says itself, by dotted key.
        settings: The same with that of its parents.
        targets: What is built of each part, by dotted key.
    """

    group: str
    stem: str
    header: str
    parents: tuple[str, ...]
    choices: dict[str, str]
    own: dict[str, Setting]
    settings: dict[str, Setting] = field(repr=False)
    targets: dict[str, str]

    @property
    def path(self) -> str:
        """Where it is in the repository."""
        return f"conf/{self.group}/{self.stem}.yaml"

    @property
    def family(self) -> str:
        """The file that all else is a variant of."""
        return self.parents[-1] if self.parents else self.stem


# --- reading ----------------------------------------------------------------------------------------------------------


def stems(group: str) -> list[str]:
    """Names of the options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def option(group: str, stem: str) -> Option:
    """Read a yaml and what it begins with."""
    text = (CONF / group / f"{stem}.yaml").read_text()
    header = "\n".join(line[1:].removeprefix(" ") for line in _leading_comments(text))
    settings: dict[str, Setting] = {}
    targets: dict[str, str] = {}
    choices: dict[str, str] = {}
    parents: tuple[str, ...] = ()
    for entry in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(entry, dict):
            for key, value in entry.items():
                name, _, place = key.removeprefix("override ").removeprefix("/").partition("@")
                choices[name if place in ("", f"_global_.{name}") else f"{name}@{place}"] = value
        elif entry != "_self_":
            parent = option(group, entry)
            settings, targets = {**settings, **parent.settings}, {**targets, **parent.targets}
            choices, parents = {**parent.choices, **choices}, (entry, *parent.parents)
    root, own = yaml.compose(text), {}
    for key, setting in _settings(root, text) if isinstance(root, yaml.MappingNode) else ():
        if key.endswith("_target_"):
            targets[key.removesuffix("_target_").removesuffix(".")] = setting.value
        else:
            own[key] = Setting(setting.value, setting.comment or settings.get(key, setting).comment)
    kept = {
        key: one
        for key, one in settings.items()
        if not key.startswith(tuple(f"{new}{mark}" for new in own for mark in ".["))
    }
    return Option(group, stem, header, parents, choices, own, {**kept, **own}, targets)


def _leading_comments(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith("# @package"):
            yield line


def _settings(node: yaml.MappingNode, text: str, path: str = "") -> Iterator[tuple[str, Setting]]:
    """Every value below ``node`` with its dotted key."""
    for key, value in node.value:
        name = f"{path}{key.value}"
        if name in ("defaults", "name"):
            continue
        if isinstance(value, yaml.MappingNode):
            yield from _settings(value, text, f"{name}.")
        elif isinstance(value, yaml.SequenceNode) and any(isinstance(one, yaml.MappingNode) for one in value.value):
            for number, one in enumerate(value.value):
                yield from _settings(one, text, f"{name}[{number}].")
        elif isinstance(value, yaml.SequenceNode) and not value.flow_style:
            items = ", ".join(one.value for one in value.value)
            yield name, Setting(f"[{items}]", _comment_after(text, key.end_mark.index))
        else:
            written = text[value.start_mark.index : value.end_mark.index]
            yield name, Setting(written, _comment_after(text, value.end_mark.index))


def _comment_after(text: str, index: int) -> str:
    rest = text[index:].split("\n", 1)[0]
    return rest.partition("#")[2].strip()


@cache
def package() -> griffe.Module:
    """The sources of genaug, read and not imported."""
    loaded = griffe.load("genaug", search_paths=[str(ROOT / "src")], allow_inspection=False)
    assert isinstance(loaded, griffe.Module)
    return loaded


def found(target: str) -> griffe.Object | None:
    """The class or function that a ``_target_`` names, if it is one of genaug's."""
    name = target.removeprefix("genaug.")
    return package()[name] if name != target else None


def sections(thing: griffe.Object | None, kind: str) -> list[griffe.DocstringSection]:
    """The parts of a docstring that are of one kind: ``text``, ``parameters``, ``attributes``."""
    if thing is None or thing.docstring is None:
        return []
    return [one for one in thing.docstring.parse("google") if one.kind.value == kind]


def prose(thing: griffe.Object | None) -> str:
    """What a docstring says before its arguments, as Markdown."""
    texts = [re.split(r"^>>>", one.value, maxsplit=1, flags=re.MULTILINE)[0] for one in sections(thing, "text")]
    return markdown("\n\n".join(texts).strip())


def meaning(target: str, argument: str) -> str:
    """What the docstring of ``target`` says of an argument; where it refers to a base class, what that says."""
    thing = found(target)
    for kind in ("parameters", "attributes"):
        for section in sections(thing, kind):
            for one in section.value:
                if one.name != argument:
                    continue
                refers = re.match(r"[Ss]ee :class:`(?:[\w.]*\.)?(\w+)`", one.description)
                bases = thing.mro() if refers and isinstance(thing, griffe.Class) else []
                base = next((base for base in bases if refers and base.name == refers[1]), None)
                return meaning(base.path, argument) if base else markdown(one.description)
    return ""


# --- writing ----------------------------------------------------------------------------------------------------------


def markdown(text: str) -> str:
    """A docstring as Markdown: roles of Sphinx as code, identifiers of papers as links."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    parts = re.split(r"(``.+?``|`[^`]+`)", text)  # what stands in code stays as it is
    return "".join(part if number % 2 else _plain(part) for number, part in enumerate(parts))


def _plain(text: str) -> str:
    text = html.escape(text, quote=False).replace("*", r"\*").replace("[", r"\[")
    return re.sub(r"arXiv[: ](\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def comment(text: str) -> str:
    """The comment at the head of a yaml as Markdown; its indented lines are commands."""
    blocks = re.split(r"((?:^ +.*\n?)+)", text, flags=re.MULTILINE)
    lines = []
    for number, block in enumerate(blocks):
        lines.append(f"\n```text\n{block.rstrip()}\n```\n" if number % 2 else markdown(block))
    return "\n".join(lines).strip()


def first_sentence(text: str) -> str:
    """As far as the first full stop that is none of an abbreviation."""
    return re.split(r"(?<!et al)\.(?:\s|$)", text.strip(), maxsplit=1)[0].replace("\n", " ")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; cells may hold anything."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def settings_table(settings: dict[str, Setting], targets: dict[str, str], prefix: str) -> str:
    """Every setting with its value, what its class says of it, and the comment of the yaml."""
    rows = []
    for key, setting in settings.items():
        parent, _, argument = key.rpartition(".")
        said = meaning(targets.get(parent, ""), argument)
        remark = f"*{_plain(setting.comment)}*" if setting.comment else ""
        if not said and not remark and parent not in targets:
            continue  # an entry of a value that is itself a mapping
        rows.append([f"`{prefix}.{key}`", f"`{setting.value}`", " ".join(filter(None, (said, remark)))])
    return table(["setting", "default", "meaning, and *the comment in the yaml*"], rows) if rows else ""


def variant(one: Option, prefix: str, level: str) -> str:
    """What an option changes of the one it begins with."""
    choices = [[f"`{name}=`", f"`{value}`"] for name, value in one.choices.items() if name not in parent_choices(one)]
    rows = [[f"`{prefix}.{key}`", f"`{setting.value}`"] for key, setting in one.own.items()]
    changed = table(["setting", f"here, other than in {one.parents[0]}"], choices + rows) if choices + rows else ""
    return f"{level} `{one.group}={one.stem}` {{ #{one.stem} }}\n\n{comment(one.header)}\n\n{changed}"


def parent_choices(one: Option) -> dict[str, str]:
    """What the file that an option begins with chooses of other groups."""
    return option(one.group, one.parents[0]).choices if one.parents else {}


def slots(one: Option) -> list[tuple[str, str, griffe.Object | None]]:
    """The slots that a method fills: what each is, how it is named, and the class or function."""
    filled = []
    for key, what in (("synthesis", "made before training"), ("view", "how it enters training")):
        if key in one.targets:
            filled.append((what, f"`method.{key}`: `{one.targets[key].split('.')[-1]}`", found(one.targets[key])))
    for group, what in (("mixer", "mixes batches"), ("transform", "changes each image")):
        if group in one.choices:
            chosen = option(group, one.choices[group])
            filled.append((what, f"`{group}={chosen.stem}`", found(chosen.targets[""])))
    return filled


def describing(one: Option) -> griffe.Object | None:
    """The module whose docstring is about a method, if it has one of its own."""
    named = next((thing for _, _, thing in slots(one) if thing is not None), None)
    return named if named is None or isinstance(named, griffe.Function) else named.module


def method_page(family: str, notes: str) -> str:
    """The page of a method and its variants."""
    one = option("method", family)
    parts = [f"# {family}", prose(describing(one)), comment(one.header), notes]
    filled = [f"- {what}: {name}. {first_sentence(prose(thing))}." for what, name, thing in slots(one)]
    others = [f"- `{name}={value}`" for name, value in one.choices.items() if name not in ("mixer", "transform")]
    parts += ["## What it fills", "\n".join(filled + others) or "Nothing: it is what the others are compared with."]
    details = [prose(thing).partition("\n\n")[2] for _, _, thing in slots(one) if isinstance(thing, griffe.Class)]
    parts += details[:1]
    if one.settings:
        parts += ["## Settings", settings_table(one.settings, one.targets, "method")]
    for group in ("mixer", "transform"):
        if group in one.choices:
            chosen = option(group, one.choices[group])
            parts += [f"## Settings of `{group}={chosen.stem}`", comment(chosen.header)]
            parts += [settings_table(chosen.settings, chosen.targets, group)]
            kin = [option(group, stem) for stem in stems(group)]
            parts += [variant(other, group, "###") for other in kin if chosen.stem in other.parents]
    kin = [option("method", stem) for stem in stems("method")]
    variants = [variant(other, "method", "###") for other in kin if family in other.parents]
    parts += ["## Variants", *variants] if variants else []
    parts += [f"The whole file, `{one.path}`:", f"```yaml\n{(ROOT / one.path).read_text()}```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def methods_table() -> str:
    """A line for each method: what it is and which slots it fills."""
    rows = []
    for stem in stems("method"):
        one = option("method", stem)
        anchor = "" if one.family == stem else f"#{stem}"
        about = first_sentence(comment(one.header))
        if not one.parents and set(one.choices) & {"mixer", "transform"}:
            about += ": " + first_sentence(prose(slots(one)[0][2]))
        fills = [re.sub(r"`method.\w+: |`", "", name).split(": ")[-1] for _, name, _ in slots(one)]
        rows.append([f"[{stem}](methods/{one.family}.md{anchor})", about, ", ".join(f"`{name}`" for name in fills)])
    return table(["`method=`", "what it is", "what it fills"], rows)


def choices_tables() -> str:
    """Every group of ``conf/`` with its options."""
    parts = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        rows = []
        for stem in stems(folder.name):
            one = option(folder.name, stem)
            about = comment(one.header) or prose(found(one.targets.get("", "")))
            rows.append([f"`{folder.name}={stem}`", first_sentence(about.split("\n\n")[0])])
        parts += [f"## {folder.name}", table(["", ""], rows)]
    return "\n\n".join(parts)


def layouts(module: griffe.Object) -> Iterator[str]:
    """What a reader of data says of the files it expects, in its errors."""
    written = {name: str(one.value) for name, one in module.members.items() if isinstance(one, griffe.Attribute)}
    names = {name: ast.literal_eval(text) for name, text in written.items() if text[:1] in "'\""}
    for name, text in written.items():
        if "REMEDY" in name:  # a string, or an f-string of the names above
            said = ast.literal_eval(text.removeprefix("f"))
            shown = said.format(**names) if text.startswith("f") else re.sub(r"\{([a-z]+)\}", r"<\1>", said)
            yield f"```text\n{shown}\n```"


def datasets_sections() -> str:
    """Every data set with what its class says, its layout and its settings."""
    parts = []
    for stem in stems("dataset"):
        one = option("dataset", stem)
        thing = found(one.targets[""])
        parts += [f"## `dataset={stem}`", prose(thing), comment(one.header)]
        if thing is not None and not one.parents:
            parts += layouts(thing.module)
        chosen = ", ".join(f"`{name}={value}`" for name, value in one.choices.items())
        parts += [f"It brings {chosen}." if chosen else ""]
        parts += [settings_table(one.settings, one.targets, "dataset")]
    return "\n\n".join(filter(None, parts))


# --- what MkDocs calls ------------------------------------------------------------------------------------------------

#: What stands in a page for a table that is made.
TABLES = {
    "<!-- table: methods -->": methods_table,
    "<!-- table: choices -->": choices_tables,
    "<!-- sections: datasets -->": datasets_sections,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each method into the navigation."""
    families = sorted({option("method", stem).family for stem in stems("method")})
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Methods" in entry:
            entry["Methods"] += [{family: f"{METHODS}/{family}.md"} for family in families]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the methods' pages, in the place of the notes that there are of some."""
    for family in sorted({option("method", stem).family for stem in stems("method")}):
        path = f"{METHODS}/{family}.md"
        notes = files.get_file_from_path(path)
        if notes is not None:
            files.remove(notes)
        text = method_page(family, notes.content_string if notes is not None else "")
        files.append(File.generated(config, path, content=text))
    for name, path in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put tables where pages ask for them."""
    for mark, made in TABLES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, made())
    return markdown
