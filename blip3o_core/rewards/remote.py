"""The reward `http`: another program judges the images. `server.py` is such a program; wire.py has what both say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from ..errors import Blip3oError, shown
from ..settings import Count, NotNegative, Positive, Settings, Text, Whole
from .interface import Candidates
from .web import BadAnswer, Web, check_url
from .wire import PATH, PROTOCOL, Limits, check_protocol, is_number, pack, range_from_wire

_SLACK = 10_000  # bytes of a request beside its images


class HttpOptions(Settings):
    guide: ClassVar[str] = "docs/reward_servers.md"

    url: Text  # of the server, without a path
    timeout: Annotated[Positive, Field(le=86_400)] = 120.0  # seconds for one answer
    retries: Annotated[Whole, Field(le=100)] = 4
    wait: Annotated[NotNegative, Field(le=300)] = 1.0  # seconds before the first new try; doubled each time
    batch: Annotated[Count, Field(le=10_000)] = 16  # images in a request
    most_bytes: Annotated[Count, Field(le=2**30)] = 2**20  # of an answer


class HttpReward:
    """The reward that a server has. Asks it once for its name, version and range when it is made."""

    def __init__(self, **options: Any):
        self.options = HttpOptions(**options)
        self.address = check_url(self.options.url) + PATH
        o = self.options
        self._web = Web(o.timeout, o.retries, o.wait, o.most_bytes)
        facts = self._web.get(self.address)
        self.name, self.version = self._identity(facts)
        limits = range_from_wire(facts.get("range"))
        if limits is None:
            raise self._bad(
                f"the range {shown(repr(facts.get('range')))}: two numbers, or null for endless, are needed"
            )
        self.range = limits
        self._limits = self._limits_of(facts)

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None | Exception]:
        candidates = Candidates(images, prompts, references, masks, meta)
        values: list[float | None | Exception] = []
        for items in self._requests(candidates):
            answer = self._web.post(self.address, {"protocol": PROTOCOL, "items": items})
            values += self._values(answer, len(items), len(values))
        return values

    def _requests(self, candidates: Candidates) -> Iterator[list[dict]]:
        """The images in groups that the server takes."""
        most = min(self.options.batch, self._limits.images)
        group: list[dict] = []
        nbytes = pixels = 0
        for place in range(len(candidates.images)):
            item, count = pack(candidates, place)
            size = len(json.dumps(item))
            if size + _SLACK > self._limits.request_bytes or count > self._limits.pixels:
                raise Blip3oError(
                    f"Image {place + 1} with its references and mask has {count:,} pixels and {size:,} bytes, but "
                    f"{self.address} takes {self._limits.pixels:,} pixels and {self._limits.request_bytes:,} bytes. "
                    "Start that server with higher limits."
                )
            full = len(group) == most or nbytes + size + _SLACK > self._limits.request_bytes
            if full or pixels + count > self._limits.pixels:
                yield group
                group, nbytes, pixels = [], 0, 0
            group.append(item)
            nbytes, pixels = nbytes + size, pixels + count
        if group:
            yield group

    def _values(self, answer: dict, count: int, before: int) -> list[float | None | Exception]:
        """The numbers in an answer, or what it says about an image that the server could not judge."""
        name, version = self._identity(answer)
        if (name, version) != (self.name, self.version):
            raise self._bad(
                f"the reward {name!r}, version {version!r}; before, it was {self.name!r}, version {self.version!r}, "
                "and their numbers may differ"
            )
        values = answer.get("values")
        if not isinstance(values, list) or len(values) != count:
            kind = f"{len(values)} values" if isinstance(values, list) else "no list 'values'"
            raise self._bad(f"{kind} for {count} images")
        found: list[float | None | Exception] = []
        for place, value in enumerate(values, before + 1):
            error = value.get("error") if isinstance(value, dict) and set(value) == {"error"} else None
            if isinstance(error, str):
                found.append(Blip3oError(f"{self.address} said: {shown(error, 400)}"))
            elif value is None:
                found.append(None)
            elif is_number(value):
                found.append(float(value))
            else:
                raise self._bad(f"{shown(repr(value))} for image {place}: a finite number, null or an error is needed")
        return found

    def _identity(self, content: dict) -> tuple[str, str]:
        try:
            check_protocol(content, self.address)
        except Blip3oError as error:
            raise BadAnswer(str(error)) from None
        name, version = content.get("name"), content.get("version")
        if not (isinstance(name, str) and name and isinstance(version, str)):
            raise self._bad("no 'name' and 'version'")
        return shown(name, 64), shown(version, 200)

    def _limits_of(self, facts: dict) -> Limits:
        """The server's own limits; those that it does not name are this program's."""
        given = facts.get("limits", {})
        own = Limits().to_wire()
        for name in own:
            value = given.get(name, own[name]) if isinstance(given, dict) else None
            if not is_number(value) or value < 1:
                raise self._bad(f"the limit {name} {shown(repr(value))}")
            own[name] = int(value)
        return Limits(**own)

    def _bad(self, what: str) -> BadAnswer:
        return BadAnswer(f"{self.address} answered with {what}. Correct that server, or check the address.")
