"""Tool choice: a request and the descriptions of a few functions, one of which serves it."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from nbkv.tasks.choices.choice import METRICS, Choice, check_options

INSTRUCTION = "These functions can be called:\n\n"
"""Stands before the descriptions."""


class Tool(NamedTuple):
    """A function as an agent is told of it, and requests that it serves."""

    signature: str
    description: str
    requests: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the function's name."""
        return self.signature.partition("(")[0]

    @property
    def text(self) -> str:
        """Return the chunk that describes it."""
        return f"{self.signature}\n{self.description}\n\n"


TOOLS = (
    Tool(
        "get_weather(city, day)",
        "Returns the forecast for a place: temperature in degrees, rain, wind and sunshine hours.",
        ("Do I need an umbrella in Lisbon tomorrow?", "How cold will it get in Oslo on Friday?"),
    ),
    Tool(
        "convert_currency(amount, source, target)",
        "Changes an amount of money from one currency to another at the rate of today.",
        ("How many euros are 250 US dollars?", "What is 80 pounds worth in yen?"),
    ),
    Tool(
        "send_email(recipient, subject, body)",
        "Writes a message and delivers it to the inbox of a person by e-mail.",
        ("Write to Anna that the meeting starts at nine.", "Let my landlord know by mail that the heating is broken."),
    ),
    Tool(
        "create_event(title, start, end)",
        "Adds an appointment to the calendar of the user, with a title, a start and an end.",
        (
            "Put lunch with Maria into my calendar at noon.",
            "Block Thursday from two to four for the dentist.",
        ),
    ),
    Tool(
        "search_flights(origin, destination, date)",
        "Lists connections by plane between two airports on a date, with prices and durations.",
        ("How can I fly from Berlin to Rome on 4 June?", "Find the cheapest plane from Boston to Denver on Sunday."),
    ),
    Tool(
        "book_table(restaurant, time, guests)",
        "Reserves seats in a restaurant for a number of people at a given time.",
        (
            "Reserve a place for four at Da Mario tonight.",
            "We want to eat at the Blue Door on Saturday, two of us.",
        ),
    ),
    Tool(
        "translate_text(text, language)",
        "Translates a text into another language and keeps its layout.",
        ("What does 'buenas noches' mean in English?", "Say 'where is the station' in Japanese."),
    ),
    Tool(
        "play_music(artist, song)",
        "Starts a song or an album of an artist on the loudspeakers of the house.",
        ("Put on something by Miles Davis.", "I would like to hear Yesterday by the Beatles."),
    ),
    Tool(
        "set_alarm(time, label)",
        "Rings at a time of the day, once or every day, with a label.",
        ("Wake me at half past six.", "Ring every morning at seven so that I take my pills."),
    ),
    Tool(
        "get_stock_price(symbol)",
        "Returns what a share of a company costs at the exchange now, and its change since yesterday.",
        ("How is Siemens doing on the exchange today?", "What does one share of Apple cost?"),
    ),
    Tool(
        "find_route(start, destination, mode)",
        "Returns the way between two addresses by car, by bicycle or on foot, with its length and time.",
        ("How do I get from the museum to the harbour on foot?", "How long is the drive from Lyon to Geneva?"),
    ),
    Tool(
        "read_file(path)",
        "Returns the contents of a text file of the project, line by line.",
        ("Show me what is in config/settings.toml.", "What does the README of this project say?"),
    ),
    Tool(
        "run_query(sql)",
        "Executes a statement on the database and returns the rows of the result.",
        ("How many customers from Spain are in the table customers?", "List the ten largest orders of last year."),
    ),
    Tool(
        "resize_image(path, width, height)",
        "Makes a picture larger or smaller and saves it under its own name.",
        ("Make photo.jpg 800 pixels wide.", "Shrink the logo to half its size."),
    ),
    Tool(
        "order_groceries(items, address)",
        "Buys food and household goods and has them delivered to an address.",
        (
            "We are out of milk, have some brought home.",
            "Get me two kilos of potatoes by noon.",
        ),
    ),
    Tool(
        "control_lights(room, brightness)",
        "Turns the lamps of a room on or off, or dims them.",
        ("It is too dark in the kitchen.", "Dim the bedroom to a third."),
    ),
)


def tool_choice(seed: int = 0, n: int | None = None, options: int = 6) -> list[Choice]:
    """Return ``n`` requests (None: all 32) with ``options`` functions each, one of which serves it.

    Functions are chunks in an order that ``seed`` gives; the answer is the function's name. Written for nbkv, in
    English. Raises ``BadOption``.
    """
    count, rng = check_options(options, len(TOOLS)), Random(f"tools {seed}")
    asked = [(tool, request) for tool in TOOLS for request in tool.requests]
    rng.shuffle(asked)
    return [_choice(tool, request, count, rng) for tool, request in asked[:n]]


def _choice(tool: Tool, request: str, count: int, rng: Random) -> Choice:
    shown = [*rng.sample([other for other in TOOLS if other != tool], count - 1), tool]
    rng.shuffle(shown)
    return Choice(
        chunks=[each.text for each in shown],
        question=f"Which function serves this request? Answer with its name.\nRequest: {request}",
        answers=[tool.name],
        kind="tool",
        metrics=METRICS,
        instruction=INSTRUCTION,
        name=request,
        options=tuple(each.name for each in shown),
        right=shown.index(tool),
    )
