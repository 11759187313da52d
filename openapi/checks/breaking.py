"""Names changes that break generated clients and that openapi-diff doesn't look at:  breaking.py OLD NEW

Gone or renamed: operations' names, types, fields of answers, statuses, headers and parameters. More is
asked: a parameter, a body or one of its fields is required now, or a token where none was needed.
"""

import json
import sys
from collections.abc import Iterator

METHODS = ("get", "put", "post", "delete", "patch")


class Document:
    def __init__(self, file: str):
        with open(file) as text:
            self.root = json.load(text)

    def operations(self) -> Iterator[tuple[str, dict]]:
        for path, item in self.root["paths"].items():
            for method in METHODS:
                if method in item:
                    yield f"{method.upper()} {path}", item[method]

    def resolve(self, value: dict) -> dict:
        while reference := value.get("$ref"):
            value = self.root
            for part in reference.removeprefix("#/").split("/"):
                value = value[part.replace("~1", "/")]
        return value

    def fields(self, schema: dict, at: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, dict, bool]]:
        """Every field below a schema: its path, its schema and whether it is required."""
        schema = self.resolve(schema)
        if id(schema) in seen:
            return
        seen = (*seen, id(schema))
        for part in ("allOf", "oneOf", "anyOf"):
            for one in schema.get(part, []):
                yield from self.fields(one, at, seen)
        if "items" in schema:
            yield from self.fields(schema["items"], f"{at}[]", seen)
        for name, field in schema.get("properties", {}).items():
            yield f"{at}.{name}", field, name in schema.get("required", [])
            yield from self.fields(field, f"{at}.{name}", seen)

    def kind(self, schema: dict) -> str:
        schema = self.resolve(schema)
        return " ".join(filter(None, (schema.get("type", "anything"), schema.get("format"))))

    def facts(self) -> tuple[set[str], set[str]]:
        """What clients count on, and what they have to send."""
        counted_on = {f"type {name}" for name in self.root["components"]["schemas"]}
        to_send = set()
        for call, operation in self.operations():
            counted_on.add(f"{call}: is called {operation['operationId']}")
            if operation.get("security"):
                to_send.add(f"{call}: a token")
            for parameter in map(self.resolve, operation.get("parameters", [])):
                named = f"{call}: {parameter['in']} {parameter['name']}"
                counted_on.add(named)
                if parameter.get("required"):
                    to_send.add(named)
            body = self.resolve(operation.get("requestBody", {}))
            if body.get("required"):
                to_send.add(f"{call}: a body")
            for kind, content in body.get("content", {}).items():
                counted_on.add(f"{call}: takes {kind}")
                for name, field, required in self.fields(content["schema"], "body"):
                    counted_on.add(f"{call}: {name}")
                    counted_on.add(f"{call}: {name} is {self.kind(field)}")
                    if required:
                        to_send.add(f"{call}: {name}")
            for status, response in operation["responses"].items():
                response = self.resolve(response)
                counted_on.add(f"{call}: {status}")
                counted_on |= {f"{call}: {status} header {name}" for name in response.get("headers", {})}
                for kind, content in response.get("content", {}).items():
                    counted_on.add(f"{call}: {status} as {kind}")
                    for name, field, required in self.fields(content["schema"], f"{status} body"):
                        counted_on.add(f"{call}: {name}")
                        counted_on.add(f"{call}: {name} is {self.kind(field)}")
                        if required:
                            counted_on.add(f"{call}: {name} is always there")
                        if not self.resolve(field).get("nullable"):
                            counted_on.add(f"{call}: {name} is never null")
        return counted_on, to_send


def main(old: str, new: str) -> int:
    before, now = Document(old), Document(new)
    had, sent = before.facts()
    has, sends = now.facts()
    calls = {call for call, _ in before.operations()}
    # Of an operation that is gone, one line is enough.
    gone_calls = calls - {call for call, _ in now.operations()}
    gone = {fact for fact in had - has if fact.split(": ")[0] not in gone_calls}
    # What was not there before can't be missed by those who don't send it.
    more = {fact for fact in sends - sent if fact.split(": ")[0] in calls}
    for call in sorted(gone_calls):
        print(f"gone: {call}")
    for fact in sorted(gone):
        # "is never null" of a field that is gone says nothing more.
        if fact.rsplit(" is ")[0] not in gone - {fact}:
            print(f"gone: {fact}")
    for fact in sorted(more):
        print(f"required now: {fact}")
    return 1 if gone or gone_calls or more else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
