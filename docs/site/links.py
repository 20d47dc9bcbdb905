"""Links of pages: which files outside docs/ are pages too, and how links to other files are shown.

The Markdown files of the repository link to one another by relative paths, which a repository's host resolves. The site
has the files of docs/ and those of `PAGES`. A link to any other file of the repository becomes its text and its path,
since a built page cannot show that file.
"""

import posixpath
import re
from pathlib import Path

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
}
"""Files outside docs/ that are pages: path in the repository -> path of the page in docs/."""

DOCS = "docs"
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def prose(text: str) -> str:
    """Return Markdown without its fenced blocks."""
    return FENCE.sub("", text)


def targets(text: str, source: str) -> list[str]:
    """Return the files that a Markdown file links to, as paths in the repository.

    Args:
        text: the Markdown text.
        source: its path in the repository.
    """
    found = (match.group(3) for match in LINK.finditer(prose(text)))
    return [_in_repository(link, source) for link in found if not _is_address(link)]


def rewritten(text: str, source: str, page: str, root: Path) -> str:
    """Return Markdown whose links lead to pages of the site, or name the path of a file that is not in the site.

    Args:
        text: the Markdown text.
        source: its path in the repository.
        page: the path of its page in docs/.
        root: the repository. Links to files that it does not have stay, so that the build complains.
    """

    def link(match: re.Match[str]) -> str:
        image, label, path, anchor = match.groups()
        if _is_address(path):
            return match.group()
        target = _in_repository(path, source)
        if target in PAGES:
            inside = PAGES[target]
        elif target.startswith(f"{DOCS}/"):
            inside = target.removeprefix(f"{DOCS}/")
        elif (root / target).exists():
            return label if label.strip("`") == target else f"{label} (`{target}`)"
        else:
            return match.group()
        # The site shows a notebook as a page.
        inside = inside.replace(".ipynb", ".md") if not image else inside
        return f"{image}[{label}]({posixpath.relpath(inside, posixpath.dirname(page) or '.')}{anchor or ''})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def _is_address(link: str) -> bool:
    return re.match(r"[a-z]+:", link) is not None


def _in_repository(link: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
