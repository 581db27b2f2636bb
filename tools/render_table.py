"""Write docs/renderers.md: every format beside its family's chat template. `make renderers`.

The templates are those of `../shared/data/chat_templates` (or `TINSMITH_SHARED`); the tokenizers are fetched into
a cache.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "families")]

from family_compare import real_chats  # noqa: E402
from table import Chats, document, real_conversations  # noqa: E402

from families import FAMILIES  # noqa: E402

if __name__ == "__main__":
    shared = Path(os.environ.get("TINSMITH_SHARED", ROOT.parent / "shared"))
    target = ROOT / "docs" / "renderers.md"
    templates = shared / "data" / "chat_templates"
    conversations = real_conversations(shared / "data" / "chat")
    chats = [Chats.of(real_chats(family, conversations, templates)) for family in FAMILIES]
    target.write_text(document(FAMILIES, templates, chats), encoding="utf-8")
    print(f"{target} written")
