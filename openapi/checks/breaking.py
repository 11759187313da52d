"""Names changes that break generated clients and that openapi-diff doesn't look at:  breaking.py OLD NEW

Gone or renamed: operations' names, types, fields of answers, statuses, headers and parameters. More is
asked: a parameter, a body or one of its fields is required now, or a token where none was needed. A list of
values (`enum`) is closed: what is sent has to be on it, and generated code reads no other. So a value that a
request may no longer have breaks those who send it, and one that an answer has beside the old ones those who
read it. The other two directions break nobody.
"""

import json
import sys
from collections.abc import Iterator
from typing import NamedTuple

METHODS = ("get", "put", "post", "delete", "patch")


class Listed(NamedTuple):
    """A list's name, and its values; `None`: any."""

    name: str
    values: frozenset[str] | None


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

    def listed(self, schema: dict, name: str) -> "Listed":
        """The closed list that a field's values, or those in it, are from; none where any will do."""
        if reference := schema.get("$ref"):
            return self.listed(self.resolve(schema), reference.rpartition("/")[2])
        if "enum" in schema:
            return Listed(name, frozenset(str(value) for value in schema["enum"] if value is not None))
        parts = [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
        for part in (*parts, *schema.get("allOf", []), *schema.get("oneOf", []), *schema.get("anyOf", [])):
            if (found := self.listed(part, name)).values is not None:
                return found
        return Listed(name, None)

    def lists(self) -> tuple[dict[str, "Listed"], dict[str, "Listed"]]:
        """Of each place in requests, and of each in answers, the list of what can stand there."""
        requests, answers = {}, {}
        for call, operation in self.operations():
            for parameter in map(self.resolve, operation.get("parameters", [])):
                place = f"{call}: {parameter['in']} {parameter['name']}"
                requests[place] = self.listed(parameter["schema"], place)
            contents = [(requests, "body", self.resolve(operation.get("requestBody", {})))]
            contents += [(answers, f"{status} body", self.resolve(response))
                         for status, response in operation["responses"].items()]
            for into, at, of in contents:
                for content in of.get("content", {}).values():
                    into[f"{call}: {at}"] = self.listed(content["schema"], f"{call}: {at}")
                    for name, field, _ in self.fields(content["schema"], at):
                        into[f"{call}: {name}"] = self.listed(field, f"{call}: {name}")
        return requests, answers

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


def closed_lists(before: Document, now: Document) -> Iterator[tuple[str, str]]:
    """What changed in closed lists, and where."""
    (took, said), (takes, says) = before.lists(), now.lists()
    for place in took.keys() & takes.keys():
        old, new = took[place].values, takes[place]
        if new.values is None:
            continue
        if old is None:
            yield f"only a list is taken now: {new.name}", place
        for value in (old or frozenset()) - new.values:
            yield f"no longer taken: {new.name} {value}", place
    for place in said.keys() & says.keys():
        old, new = said[place].values, says[place]
        if old is None:
            continue
        if new.values is None:
            yield f"no closed list any more in answers: {said[place].name}", place
        for value in (new.values or frozenset()) - old:
            yield f"new in a closed list of answers: {new.name} {value}", place


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
    # A list that many places share is one line.
    lists: dict[str, list[str]] = {}
    for change, place in closed_lists(before, now):
        lists.setdefault(change, []).append(place)
    for change, places in sorted(lists.items()):
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        print(change if change.endswith(min(places)) else f"{change} ({min(places)}{others})")
    return 1 if gone or gone_calls or more or lists else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
