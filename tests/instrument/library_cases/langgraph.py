"""LangGraph makes a span of a run; its tools are LangChain's."""

from library_case import Case

CASE = Case("langgraph")
