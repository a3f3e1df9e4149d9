"""The names of other conventions that we emit: OpenTelemetry's GenAI ones and its general ones.

Rules: as in `semconv`, which shows these names as its own; nobody imports this module but it.
"""

from __future__ import annotations

from spanledger.telemetry._declared import attribute

# --- GenAI conventions
OPERATION_NAME = attribute(
    "gen_ai.operation.name", "string", "every span of ours", "execute_tool", "What is done: `chat`, `invoke_agent`, …"
)
PROVIDER_NAME = attribute("gen_ai.provider.name", "string", "spans of model calls", "openai", "Who serves the model.")
AGENT_NAME = attribute(
    "gen_ai.agent.name", "string", "spans inside a workflow or agent that has a name", "support", "Name of the agent."
)
AGENT_VERSION = attribute(
    "gen_ai.agent.version",
    "string",
    "spans inside a workflow of an agent whose version is known",
    "1.4.0",
    "Its version.",
)
ENVIRONMENT = attribute(
    "deployment.environment.name",
    "string",
    "spans of workflows, where an environment is named",
    "staging",
    "Where the agent runs.",
)
CONVERSATION_ID = attribute(
    "gen_ai.conversation.id",
    "string",
    "spans of workflows, and of agents whose framework has threads",
    "order-123",
    "What ties traces of one conversation together.",
)
REQUEST_MODEL = attribute(
    "gen_ai.request.model", "string", "spans of model calls", "gpt-4.1-mini", "The model that was asked for."
)
REQUEST_STREAM = attribute(
    "gen_ai.request.stream", "boolean", "spans of model calls that stream", "true", "Whether the answer is streamed."
)
REQUEST_MAX_TOKENS = attribute(
    "gen_ai.request.max_tokens", "int", "spans of model calls that say so", "256", "The most tokens to generate."
)
REQUEST_TEMPERATURE = attribute(
    "gen_ai.request.temperature", "double", "spans of model calls that say so", "0.2", "Temperature of the request."
)
REQUEST_TOP_P = attribute(
    "gen_ai.request.top_p", "double", "spans of model calls that say so", "0.9", "Top-p of the request."
)
RESPONSE_MODEL = attribute(
    "gen_ai.response.model", "string", "spans of answered model calls", "gpt-4.1-mini-2025-04-14", "Who answered."
)
RESPONSE_ID = attribute(
    "gen_ai.response.id", "string", "spans of answered model calls", "chatcmpl-7Kx2", "The provider's id of the answer."
)
RESPONSE_FINISH_REASONS = attribute(
    "gen_ai.response.finish_reasons", "string[]", "spans of answered model calls", '["stop"]', "Why generation ended."
)
RESPONSE_TIME_TO_FIRST_CHUNK = attribute(
    "gen_ai.response.time_to_first_chunk",
    "double",
    "spans of model calls that stream",
    "0.412",
    "Seconds from the request to the first chunk of the answer.",
)
USAGE_INPUT_TOKENS = attribute(
    "gen_ai.usage.input_tokens", "int", "spans of model calls that report it", "812", "Tokens of the request."
)
USAGE_OUTPUT_TOKENS = attribute(
    "gen_ai.usage.output_tokens", "int", "spans of model calls that report it", "64", "Tokens of the answer."
)
USAGE_CACHE_READ_TOKENS = attribute(
    "gen_ai.usage.cache_read.input_tokens",
    "int",
    "spans of model calls that report it",
    "768",
    "Tokens of the request that the provider had cached; contained in the input tokens.",
)
USAGE_CACHE_WRITE_TOKENS = attribute(
    "gen_ai.usage.cache_write.input_tokens",
    "int",
    "spans of model calls that report it",
    "1024",
    "Tokens of the request that the provider put into its cache; contained in the input tokens.",
)
USAGE_REASONING_TOKENS = attribute(
    "gen_ai.usage.reasoning.output_tokens",
    "int",
    "spans of model calls that report it",
    "32",
    "Tokens of reasoning; contained in the output tokens.",
)
TOOL_NAME = attribute("gen_ai.tool.name", "string", "spans of tools", "refund", "Name of the tool.")
TOOL_TYPE = attribute("gen_ai.tool.type", "string", "spans of tools", "function", "Kind of the tool.")
TOOL_CALL_ID = attribute(
    "gen_ai.tool.call.id", "string", "spans of tools that a model called", "call_7Kx2", "The provider's id of the call."
)
TOOL_CALL_ARGUMENTS = attribute(
    "gen_ai.tool.call.arguments", "string", "where content is captured", '{"id": "o-125"}', "The arguments, as JSON."
)
TOOL_CALL_RESULT = attribute(
    "gen_ai.tool.call.result", "string", "where content is captured", '{"paid": true}', "The result, as JSON."
)

# --- GenAI conventions: what is said
INPUT_MESSAGES = attribute(
    "gen_ai.input.messages",
    "any",
    "spans and events of model calls, spans of runs of agents, where content is captured",
    '[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]',
    "What the model is asked, without what rules redact: JSON on a span, structured in an event. Of anything binary, "
    "its kind and size.",
)
OUTPUT_MESSAGES = attribute(
    "gen_ai.output.messages",
    "any",
    "spans and events of model calls, spans of runs of agents, where content is captured",
    '[{"role": "assistant", "parts": [{"type": "text", "content": "hello"}], "finish_reason": "stop"}]',
    "What the model answers, likewise; of a stream, what came of it.",
)
SYSTEM_INSTRUCTIONS = attribute(
    "gen_ai.system_instructions",
    "any",
    "spans and events of model calls that give them apart from the messages, where content is captured",
    '[{"type": "text", "content": "be brief"}]',
    "What the model is told beforehand, likewise.",
)
TOOL_DEFINITIONS = attribute(
    "gen_ai.tool.definitions",
    "any",
    "spans and events of model calls with tools, where content is captured",
    '[{"type": "function", "name": "refund", "parameters": {"type": "object"}}]',
    "What the model may call, likewise.",
)

# --- general conventions
ERROR_TYPE = attribute(
    "error.type",
    "string",
    "spans that failed or were refused",
    "BudgetExceeded",
    "The class of the error; `tool_error` where a tool told of its failure in words.",
    stability="stable",
)
SERVER_ADDRESS = attribute(
    "server.address",
    "string",
    "spans of model calls, the event of a request, and requests of tracked clients",
    "api.openai.com",
    "Host of the provider, or whom a request is for.",
    stability="stable",
)
HTTP_METHOD = attribute(
    "http.request.method",
    "string",
    "the event of a request, and requests of tracked clients",
    "POST",
    "The method.",
    stability="stable",
)
URL_FULL = attribute(
    "url.full",
    "string",
    "requests of tracked clients",
    "https://api.example.com/v1/orders?limit=[redacted]",
    "Where it went: without a user, and of the query only the names.",
    stability="stable",
)
URL_TEMPLATE = attribute(
    "url.template", "string", "the event of a request that a rule is about", "/v1/refunds*", "The path in the rule."
)
HTTP_STATUS_CODE = attribute(
    "http.response.status_code", "int", "spans of failed model calls, requests of tracked clients", "429", "The answer."
)
SERVER_PORT = attribute(
    "server.port", "int", "spans of model calls, where it is not the usual one", "8443", "Its port.", stability="stable"
)
