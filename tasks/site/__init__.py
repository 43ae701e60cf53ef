"""The leaderboard as a site: one page, and the same rows as JSON, CSV and Markdown."""

from tasks.site.publish import write_site
from tasks.site.render import Edition, site_files

__all__ = ["Edition", "site_files", "write_site"]
