"""Labelled picture sets for accuracy sweeps: what form they have, where they are, what is wrong with them."""

from __future__ import annotations

from topfive.datasets.cards import DatasetCard, find_dataset, register_dataset, registered
from topfive.datasets.listing import Listing, Picture, list_dataset
from topfive.datasets.storage import Storage, open_storage

__all__ = [
    "DatasetCard",
    "Listing",
    "Picture",
    "Storage",
    "find_dataset",
    "list_dataset",
    "open_storage",
    "register_dataset",
    "registered",
]
