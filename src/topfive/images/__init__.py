"""Pictures: decoding, preprocessing profiles, picture folders."""

from __future__ import annotations

from topfive.images.decode import decode, decoder_version
from topfive.images.folders import LabelledImage, list_images
from topfive.images.preprocess import crop_uint8, normalise, normalise_numbers, preprocess, preprocess_batch
from topfive.images.profiles import Profile, load_profile, profile_names, read_profile

__all__ = [
    "LabelledImage",
    "Profile",
    "crop_uint8",
    "decode",
    "decoder_version",
    "list_images",
    "load_profile",
    "normalise",
    "normalise_numbers",
    "preprocess",
    "preprocess_batch",
    "profile_names",
    "read_profile",
]
