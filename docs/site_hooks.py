"""Hooks of MkDocs: the README is the home page, and links out of docs/ lead to copies in the site.

So the same pages work in the repository and in the site.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
#: The folder of the site with copies of the repository's files.
SOURCE = "source"
#: A link or a picture: its text, target and anchor.
_LINK = re.compile(r"\[(?P<text>[^][]*)\]\((?P<to>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the home page, and each file outside of docs/ that a page links to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    home = _LINK.sub(lambda link: _to(link, relpath(link["to"], "docs")), readme)
    files.append(File.generated(config, "index.md", content=home))
    for page in list(files.documentation_pages()):
        for link in _LINK.finditer(page.content_string):
            target = _outside(page.src_uri, link["to"])
            if _is_copied(target) and not files.get_file_from_path(f"{SOURCE}/{target}"):
                content = (ROOT / target).read_bytes()
                copy = File.generated(
                    config,
                    f"{SOURCE}/{target}",
                    content=content,
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
                files.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links out of docs/ to the copies, and links to the README to the home page.

    A link without a copy (a folder, a page of the repository) becomes plain text.
    """
    uri = page.file.src_uri

    def lead(link: re.Match[str]) -> str:
        target = _outside(uri, link["to"])
        if not target:
            return link[0]
        if target == "README.md":
            return _to(link, relpath("index.md", PurePosixPath(uri).parent))
        copy = relpath(f"{SOURCE}/{target}", PurePosixPath(uri).parent)
        return _to(link, copy) if _is_copied(target) else link["text"]

    return _LINK.sub(lead, markdown)


def _to(link: re.Match[str], target: str) -> str:
    return f"[{link['text']}]({target}{link['anchor'] or ''})"


def _is_copied(target: str) -> bool:
    return (ROOT / target).is_file() and not target.endswith(".md")


def _outside(page: str, link: str) -> str:
    """The path of a link's target in the repository. "" for a target in docs/ or elsewhere."""
    target = normpath(PurePosixPath("docs", page).parent / link)
    is_ours = not target.startswith(("docs/", "../")) and (ROOT / target).exists()
    return target if is_ours else ""
