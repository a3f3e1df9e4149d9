"""Gates for web frameworks: `spanledger.web.fastapi`, `.starlette` and `.flask`."""
