"""What is kept on disk: tensors with words about them, trained models, names of files."""

from captum_deduce.storage.cache import directory, obtain, path_for
from captum_deduce.storage.file_names import file_stem
from captum_deduce.storage.fingerprints import fingerprint
from captum_deduce.storage.tensors import read, write
from captum_deduce.storage.whole_files import unfinished_files, whole_file

__all__ = [
    "directory",
    "file_stem",
    "fingerprint",
    "obtain",
    "path_for",
    "read",
    "unfinished_files",
    "whole_file",
    "write",
]
