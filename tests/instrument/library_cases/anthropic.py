"""The Anthropic client asks models; its own files test that."""

from library_case import Case

CASE = Case("anthropic")
