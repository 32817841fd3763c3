"""Parsers of replies while they are written: `write` a piece, get the events that it completes; `flush` at the end."""
