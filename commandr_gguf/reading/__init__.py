"""Files as documents for a grounded answer: text, Markdown, HTML and PDF, in chunks with titles.

Each format has a reader that makes a `Content` of a file; `chunks` cuts any content, `documents` joins the parts.
"""

from commandr_gguf.reading.documents import read_documents, read_passages

__all__ = ["read_documents", "read_passages"]
