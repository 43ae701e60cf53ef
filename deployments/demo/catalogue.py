"""All that it takes to stock a stand-in Hub: contents, repos, and builders of repos."""

from deployments.demo.content import BytesContent, Content, FileContent, SparseContent
from deployments.demo.repo import StandInRepo, repo_from_folder
from deployments.demo.shapes import sparse_7b, sparse_70b, sparse_llama

__all__ = [
    "BytesContent",
    "Content",
    "FileContent",
    "SparseContent",
    "StandInRepo",
    "repo_from_folder",
    "sparse_7b",
    "sparse_70b",
    "sparse_llama",
]
