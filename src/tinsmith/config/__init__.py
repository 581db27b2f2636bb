"""Configuration: attrs classes of options, from code, files and the command line, and back."""

from tinsmith.config.options import Option, option, options_of
from tinsmith.config.resolve import Resolved, dumps, flat, from_dict, load, resolve, to_dict

__all__ = ["Option", "Resolved", "dumps", "flat", "from_dict", "load", "option", "options_of", "resolve", "to_dict"]
