"""The leaderboard as a site: one page, and the same rows as JSON, CSV and Markdown."""

from tasks.site.columns import COLUMNS, STATUSES, figure
from tasks.site.publish import write_site
from tasks.site.render import Edition, markdown_cell, site_files

__all__ = ["COLUMNS", "STATUSES", "Edition", "figure", "markdown_cell", "site_files", "write_site"]
