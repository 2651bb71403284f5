"""The report as a static site: pages that need no server, no network and no script to be read."""

from __future__ import annotations

from topfive.report.site.content import Broken, Content
from topfive.report.site.pages import Material, site_files
from topfive.report.site.source import read_content
from topfive.report.site.writing import write_site

__all__ = ["Broken", "Content", "Material", "read_content", "site_files", "write_site"]
