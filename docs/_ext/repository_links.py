"""Links out of docs/ to other files of the repository: relative in the source, to the repository's site in the pages."""

import re
from pathlib import Path

from sphinx.util import logging

LINK = re.compile(r"(?<!!)(\[[^\]]*\])\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")
logger = logging.getLogger(__name__)


def rewrite(app, docname, source):
    """Point relative links that leave docs/ to the site; warn about those of files that there are not."""
    page, docs = Path(app.env.doc2path(docname)), Path(app.srcdir)
    root = docs.parent

    def replaced(match):
        target = (page.parent / match[2]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not (target.is_relative_to(root) and target.exists()):
            logger.warning("no such file in the repository: %s", match[2], location=docname)
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return (
            f"{match[1]}({app.config.repository_url}/{kind}/main/{target.relative_to(root).as_posix()}{match[3] or ''})"
        )

    source[0] = LINK.sub(replaced, source[0])


def setup(app):
    app.add_config_value("repository_url", "", "env")
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True}
