"""What is kept on disk: tensors with words, trained models, JSON, images, names of files."""

from captum_deduce.storage.cache import directory, obtain, path_for
from captum_deduce.storage.file_names import file_stem
from captum_deduce.storage.fingerprints import fingerprint
from captum_deduce.storage.image_files import check_pixels, read_image
from captum_deduce.storage.json_files import parse_json, read_json
from captum_deduce.storage.tensors import read, write
from captum_deduce.storage.whole_files import unfinished_files, whole_file

__all__ = [
    "check_pixels",
    "directory",
    "file_stem",
    "fingerprint",
    "obtain",
    "parse_json",
    "path_for",
    "read",
    "read_image",
    "read_json",
    "unfinished_files",
    "whole_file",
    "write",
]
