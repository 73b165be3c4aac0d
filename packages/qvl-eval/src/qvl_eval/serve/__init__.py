"""An OpenAI-compatible endpoint over one engine thread.

limits       Limits: what a request may cost
refusal      Refusal: an error response in OpenAI's form
wire         the request body as pydantic models; chunks and completions as JSON
media        image and video URLs of a request, to bytes and files, with no network
guard        Host, Origin and token, before anything is read
json_body    JSON without surprises, bounded in the number of its values
body         the request body, bounded in size and time
answering    from a request to pieces of text, with a place in the queue and the engine
completions  /v1/chat/completions
app          all routes
metrics      counters in Prometheus' text format
access_rules what the command line says of token, names, root and address
connection   HTTP connections whose requests have to arrive in time, and how many
ending       signals
server       uvicorn, `qvl serve`
"""
