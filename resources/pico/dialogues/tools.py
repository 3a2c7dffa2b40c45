"""The tools that the dialogues know: schema, ways to ask, results, ways to report a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dialogues.writer import ADJECTIVES, NOUNS, TAGS, Writer

Arguments = dict[str, Any]
Draw = Callable[[Writer], Any]

_ROOMS: Final = ("kitchen", "bedroom", "office", "hall", "garage", "bathroom", "attic")
_MONEY: Final = ("USD", "EUR", "JPY", "GBP", "CHF", "SEK")
_SKY: Final = ("sunny", "cloudy", "rain", "snow", "windy", "fog", "clear", "storm")
_LANGUAGES: Final = ("French", "German", "Spanish", "Italian", "Dutch", "Polish", "Latin")
_TABLES: Final = ("orders", "users", "invoices", "products", "visits", "payments")


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool: its JSON schema and how a value is drawn."""

    schema: Mapping[str, Any]
    draw: Draw
    required: bool = True


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        description: what the schema says; a template, so that wordings vary.
        parameters: by name, in order.
        asks: how a person asks for one call; fields are the arguments.
        subject: names one call in a sentence, as in "the weather in Velna".
        result: draws the facts that the tool returns for given arguments.
        report: tells one result; fields are arguments and facts.
        columns: heading of a table and the field below it.
        lacks: the question to put when the argument of that name is missing.
    """

    description: str
    parameters: Mapping[str, Parameter]
    asks: str
    subject: str
    result: Callable[[Writer, Arguments], dict[str, Any]]
    report: str
    columns: Mapping[str, str]
    lacks: tuple[str, str, str] | None = None

    def draw_arguments(self, writer: Writer) -> Arguments:
        """Draws a full set of arguments."""
        return {name: p.draw(writer) for name, p in self.parameters.items()}

    def schema(self, name: str, writer: Writer) -> dict[str, Any]:
        """The OpenAI function schema, its description worded by chance."""
        required = [key for key, p in self.parameters.items() if p.required]
        properties = {key: dict(p.schema) for key, p in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": required}
        description = writer.ask(self.description)
        function = {"name": name, "description": description, "parameters": parameters}
        return {"type": "function", "function": function}


def _string(draw: Draw) -> Parameter:
    return Parameter({"type": "string"}, draw)


def _integer(low: int, high: int) -> Parameter:
    return Parameter({"type": "integer"}, lambda w: w.between(low, high))


def _boolean() -> Parameter:
    return Parameter({"type": "boolean"}, lambda w: w.chance(0.5))


def _enum(*options: str) -> Parameter:
    return Parameter({"type": "string", "enum": list(options)}, lambda w: w.even(options))


def _array(draw: Draw) -> Parameter:
    def several(writer: Writer) -> list[str]:
        return list(dict.fromkeys(draw(writer) for _ in range(writer.between(1, 3))))

    return Parameter({"type": "array", "items": {"type": "string"}}, several)


def _status(*options: str) -> Callable[[Writer, Arguments], dict[str, Any]]:
    return lambda w, _: {"status": w.even(options)}


def _city() -> Parameter:
    return _string(lambda w: w.city())


def _person() -> Parameter:
    return _string(lambda w: w.person())


def _errand() -> Parameter:
    return _string(lambda w: w.errand())


TOOLS: Final[dict[str, Tool]] = {
    "get_weather": Tool(
        "[Get weather|Get the current weather in a city.|Current weather of a city.]",
        {"city": _city()},
        "[What is the weather [in {city}|like in {city}|in {city} right now]?|How is the weather in"
        " {city}[| today| now]?|[Get|Check|Tell me|Look up] the weather in {city}[| please].|Is it"
        " warm in {city}[| today]?|I need the weather for {city}.|Weather in {city}?]",
        "the weather in {city}",
        lambda w, a: {
            "city": a["city"],
            "temperature_c": w.between(-9, 39),
            "condition": w.even(_SKY),
        },
        "[It is {temperature_c} °C in {city}, {condition}.|In {city} it is {temperature_c} °C with"
        " {condition}.|The weather in {city}: {condition}, {temperature_c} °C.|{city} has"
        " {condition} at {temperature_c} °C.]",
        {"City": "city", "Temperature (°C)": "temperature_c", "Condition": "condition"},
        ("city", "[What is the weather like?|Check the weather.|How warm is it there?]", "city"),
    ),
    "get_forecast": Tool(
        "[Weather forecast for some days.|Get a forecast.]",
        {"city": _city(), "days": _integer(2, 14)},
        "[Give me the forecast for {city} for {days} days.|What will the weather be in {city} over"
        " the next {days} days?|I want a {days} day forecast for {city}.]",
        "the forecast for {city}",
        lambda w, a: {"city": a["city"], "days": a["days"], "outlook": w.even(_SKY)},
        "[For the next {days} days {city} expects {outlook}.|{city} will have {outlook} for {days}"
        " days.|The {days} day outlook for {city} is {outlook}.]",
        {"City": "city", "Days": "days", "Outlook": "outlook"},
    ),
    "get_air_quality": Tool(
        "[Air quality index of a place.|Get the air quality.]",
        {"place": _city()},
        "[How [clean|good] is the air in {place}?|Check the air quality in {place}.|What is the air"
        " quality index of {place}?]",
        "the air quality in {place}",
        lambda w, a: {"place": a["place"], "index": w.between(8, 220)},
        "[The air quality index in {place} is {index}.|{place} has an index of {index}.]",
        {"Place": "place", "Index": "index"},
    ),
    "get_time": Tool(
        "[Local time of a city.|Get the current time somewhere.]",
        {"city": _city()},
        "[What time is it in {city}?|Tell me the [local|current] time in {city}.|How late is it in"
        " {city}[| now]?]",
        "the time in {city}",
        lambda w, a: {"city": a["city"], "time": f"{w.between(0, 23):02d}:{w.between(0, 59):02d}"},
        "[It is {time} in {city}.|The local time in {city} is {time}.|{city}: {time}.]",
        {"City": "city", "Time": "time"},
        ("city", "[What time is it there?|Tell me the local time over there.]", "city"),
    ),
    "get_population": Tool(
        "[Number of people who live in a town.|Look up a population.]",
        {"town": _city()},
        "[How many people live in {town}?|What is the population of {town}?|Look up how big {town}"
        " is.]",
        "the population of {town}",
        lambda w, a: {"town": a["town"], "population": w.between(200, 990000)},
        "[{population} people live in {town}.|The population of {town} is {population}.]",
        {"Town": "town", "Population": "population"},
    ),
    "find_hotel": Tool(
        "[Search hotels.|Find a hotel in a city.]",
        {"city": _city(), "nights": _integer(1, 20), "pets": _boolean()},
        "[Find a hotel in {city} for {nights} nights, {pets?with a dog:no pets}.|I need a room in"
        " {city} for {nights} nights. {pets?I bring my cat:I have no pets}.]",
        "a hotel in {city}",
        lambda w, a: (
            {"hotel": f"{w.even(ADJECTIVES).capitalize()} {w.even(NOUNS).capitalize()}"}
            | {"city": a["city"], "price": w.between(40, 400)}
        ),
        "[The {hotel} in {city} costs {price} a night.|I found the {hotel} in {city} for {price} a"
        " night.]",
        {"Hotel": "hotel", "City": "city", "Price": "price"},
        (
            "city",
            "[Find me a hotel for {nights} nights.|I need a room for {nights} nights.]",
            "city",
        ),
    ),
    "search_flights": Tool(
        "[Search flights on a day.|Find a flight.]",
        {"origin": _city(), "destination": _city(), "date": _string(lambda w: w.date())},
        "[Find a flight from {origin} to {destination} on {date}.|I want to fly from {origin} to"
        " {destination} on {date}.|Which flights go to {destination} from {origin} on {date}?]",
        "a flight from {origin} to {destination}",
        lambda w, a: (
            {"flight": w.code(), "destination": a["destination"]} | {"price": w.between(60, 990)}
        ),
        "[Flight {flight} to {destination} costs {price}.|You can take {flight} to {destination}"
        " for {price}.]",
        {"Flight": "flight", "Destination": "destination", "Price": "price"},
    ),
    "get_distance": Tool(
        "[Distance between two places.|Get a route length.]",
        {"start": _city(), "end": _city(), "mode": _enum("car", "train", "bike", "walk")},
        "[How far is it from {start} to {end} by {mode}?|Distance from {start} to {end} by {mode}?"
        "|I go by {mode} from {start} to {end}. How far is that?]",
        "the distance from {start} to {end}",
        lambda w, a: {"start": a["start"], "end": a["end"], "km": w.between(3, 1900)},
        "[It is {km} km from {start} to {end}.|From {start} to {end} it is {km} km.]",
        {"From": "start", "To": "end", "Kilometres": "km"},
    ),
    "convert_currency": Tool(
        "[Convert an amount of money.|Currency conversion.]",
        {"amount": _integer(2, 9999), "source": _enum(*_MONEY), "target": _enum(*_MONEY)},
        "[Convert {amount} {source} to {target}.|How much is {amount} {source} in {target}?|What do"
        " I get in {target} for {amount} {source}?]",
        "{amount} {source} in {target}",
        lambda w, a: (
            {"amount": a["amount"], "source": a["source"]}
            | {"result": w.between(2, 9999), "target": a["target"]}
        ),
        "[{amount} {source} are {result} {target}.|You get {result} {target} for {amount} {source}.]",
        {"Amount": "amount", "From": "source", "Result": "result", "To": "target"},
    ),
    "send_message": Tool(
        "[Send a text message.|Send a message to somebody.]",
        {"recipient": _person(), "text": _errand()},
        "[Send {recipient} this message: {text}.|Write to {recipient}: {text}.|Tell {recipient} to"
        " {text}.]",
        "the message to {recipient}",
        lambda w, a: {"recipient": a["recipient"], "status": w.even(("sent", "queued"))},
        "[The message to {recipient} is {status}.|Done: the message for {recipient} is {status}.]",
        {"Recipient": "recipient", "Status": "status"},
        ("recipient", "[Send this message: {text}.|Please write: {text}.]", "recipient"),
    ),
    "create_event": Tool(
        "[Put an event into the calendar.|Create a calendar event.]",
        {"title": _errand(), "date": _string(lambda w: w.date()), "hour": _integer(6, 22)},
        "[Put {title} into my calendar on {date} at {hour}.|Create an event on {date} at {hour}:"
        " {title}.|On {date} at {hour} I want to {title}. Save it.]",
        "the event on {date}",
        lambda w, a: {"date": a["date"], "hour": a["hour"], "status": "created"},
        "[Your event on {date} at {hour} is {status}.|It is {status} for {date} at {hour}.]",
        {"Date": "date", "Hour": "hour", "Status": "status"},
        ("date", "[Put {title} into my calendar at {hour}.|Save this at {hour}: {title}.]", "date"),
    ),
    "set_alarm": Tool(
        "[Set an alarm.|Set an alarm clock.]",
        {"hour": _integer(0, 23), "minute": _integer(10, 59), "label": _errand()},
        "[Wake me at {hour}:{minute}, label it {label}.|Set an alarm for {hour}:{minute} called"
        " {label}.]",
        "the alarm at {hour}:{minute}",
        lambda w, a: {"hour": a["hour"], "minute": a["minute"], "status": w.even(("on", "set"))},
        "[The alarm for {hour}:{minute} is {status}.|Your alarm at {hour}:{minute} is {status}.]",
        {"Hour": "hour", "Minute": "minute", "Status": "status"},
    ),
    "add_to_list": Tool(
        "[Add entries to a list.|Put items on a list.]",
        {
            "list": _enum("shopping", "packing", "reading", "wishes"),
            "items": _array(lambda w: w.thing()),
        },
        "[Add {items} to my {list} list.|Put {items} on the {list} list.|My {list} list needs"
        " {items}.]",
        "the {list} list",
        lambda w, a: {"list": a["list"], "added": len(a["items"]), "total": w.between(4, 40)},
        "[{added} added, the {list} list has {total} entries now.|Your {list} list now holds {total}"
        " entries, {added} of them new.]",
        {"List": "list", "Added": "added", "Total": "total"},
    ),
    "get_stock": Tool(
        "[How many pieces are in stock.|Stock of an article.]",
        {"sku": _string(lambda w: w.code())},
        "[How many {sku} are [in stock|left]?|Check the stock of {sku}.|Do we have {sku}?]",
        "the stock of {sku}",
        lambda w, a: {"sku": a["sku"], "pieces": w.between(0, 600)},
        "[{pieces} pieces of {sku} are in stock.|We have {pieces} of {sku}.|{sku}: {pieces} left.]",
        {"Article": "sku", "Pieces": "pieces"},
        ("sku", "[How many are in stock?|Check the stock for me.]", "article number"),
    ),
    "track_parcel": Tool(
        "[Where a parcel is.|Track a parcel by its code.]",
        {"code": _string(lambda w: w.code())},
        "[Where is [my |]parcel {code}?|Track {code}.|Has {code} arrived?]",
        "parcel {code}",
        lambda w, a: (
            {"code": a["code"], "place": w.city()}
            | {"status": w.even(("in transit", "delivered", "waiting", "returned"))}
        ),
        "[Parcel {code} is {status}, last seen in {place}.|{code} is {status} in {place}.]",
        {"Parcel": "code", "Status": "status", "Place": "place"},
        ("code", "[Where is my parcel?|Has my parcel arrived?]", "tracking code"),
    ),
    "play_music": Tool(
        "[Play music by an artist.|Start music.]",
        {"artist": _person(), "shuffle": _boolean()},
        "[Play {artist}, {shuffle?shuffled:in order}.|I want to hear {artist}"
        " {shuffle?on shuffle:in order}.]",
        "music by {artist}",
        lambda w, a: {"artist": a["artist"], "songs": w.between(5, 90)},
        "[Playing {songs} songs by {artist}.|{artist} is on, {songs} songs.]",
        {"Artist": "artist", "Songs": "songs"},
    ),
    "translate": Tool(
        "[Translate a text.|Translate into another language.]",
        {"text": _errand(), "language": _enum(*_LANGUAGES)},
        "[Translate '{text}' into {language}.|How do you say '{text}' in {language}?]",
        "the {language} for it",
        lambda w, a: {"language": a["language"], "translation": w.person().lower()},
        "[In {language} it is '{translation}'.|The {language} translation: '{translation}'.]",
        {"Language": "language", "Translation": "translation"},
    ),
    "lookup_person": Tool(
        "[Find a person in the directory.|Directory search.]",
        {"name": _person()},
        "[Which [office|room] does {name} have?|Find {name} in the directory.|Where does {name}"
        " sit?]",
        "{name}",
        lambda w, a: {"name": a["name"], "office": w.code(), "phone": w.between(1000, 9999)},
        "[{name} sits in {office}, phone {phone}.|You find {name} in {office}, the phone is"
        " {phone}.]",
        {"Name": "name", "Office": "office", "Phone": "phone"},
    ),
    "set_light": Tool(
        "[Set the light of a room.|Control a lamp, level in percent.]",
        {"room": _enum(*_ROOMS), "level": _integer(0, 100)},
        "[Set the {room} light to {level} percent.|Light in the {room}: {level}.|Make the {room}"
        " light {level} percent.]",
        "the {room} light",
        lambda w, a: {"room": a["room"], "level": a["level"], "ok": True},
        "[The {room} light is at {level} percent.|Done, {level} percent in the {room}.]",
        {"Room": "room", "Level": "level"},
        ("level", "[Set the {room} light.|Change the light in the {room}.]", "level"),
    ),
    "set_thermostat": Tool(
        "[Set a room's temperature.|Control the heating.]",
        {"room": _enum(*_ROOMS), "degrees": _integer(12, 28)},
        "[Heat the {room} to {degrees} degrees.|Set the {room} to {degrees} degrees.|I want"
        " {degrees} degrees in the {room}.]",
        "the heating in the {room}",
        lambda w, a: {"room": a["room"], "degrees": a["degrees"], "now": w.between(9, 30)},
        "[The {room} has {now} degrees and goes to {degrees}.|Set: {degrees} degrees in the {room},"
        " now {now}.]",
        {"Room": "room", "Target": "degrees", "Now": "now"},
    ),
    "read_file": Tool(
        "[Read a file.|Return the text of a file.]",
        {"path": _string(lambda w: w.path())},
        "[Read {path}.|What is in {path}?|Open {path} [for me|please].]",
        "{path}",
        lambda w, a: {"path": a["path"], "text": w.errand()},
        "[{path} says: {text}.|The file {path} reads: {text}.]",
        {"File": "path", "Text": "text"},
        ("path", "[Read the file.|Open that file for me.]", "path"),
    ),
    "run_query": Tool(
        "[Read rows of a table.|Query the database.]",
        {"table": _enum(*_TABLES), "limit": _integer(1, 500)},
        "[Show me {limit} rows of {table}.|Fetch {limit} {table}.|Query {table}, at most {limit}"
        " rows.]",
        "the {table} table",
        lambda w, a: {"table": a["table"], "rows": w.between(0, a["limit"])},
        "[The table {table} gave {rows} rows.|{rows} rows came from {table}.]",
        {"Table": "table", "Rows": "rows"},
    ),
    "create_ticket": Tool(
        "[Open a support ticket.|Create a ticket.]",
        {
            "title": _errand(),
            "priority": _enum("low", "medium", "high"),
            "tags": _array(lambda w: w.even(TAGS)),
        },
        "[Open a {priority} priority ticket: {title}. Tags: {tags}.|Create a ticket, {title},"
        " priority {priority}, tags {tags}.]",
        "the ticket",
        lambda w, a: {"ticket": w.code(), "priority": a["priority"]},
        "[Ticket {ticket} is open with {priority} priority.|I opened {ticket}, priority"
        " {priority}.]",
        {"Ticket": "ticket", "Priority": "priority"},
        ("title", "[Open a ticket with {priority} priority.|I need a {priority} ticket.]", "title"),
    ),
    "book_table": Tool(
        "[Reserve a table in a restaurant.|Book a table.]",
        {"restaurant": _person(), "guests": _integer(1, 12), "outdoor": _boolean()},
        "[Book a table at {restaurant} for {guests} people, {outdoor?outside:inside}.|{guests} of us"
        " want to eat at {restaurant}, {outdoor?outdoors:indoors}.]",
        "the table at {restaurant}",
        lambda w, a: (
            {"restaurant": a["restaurant"], "guests": a["guests"]}
            | {"status": w.even(("confirmed", "full"))}
        ),
        "[{restaurant} for {guests}: {status}.|The table for {guests} at {restaurant} is {status}.]",
        {"Restaurant": "restaurant", "Guests": "guests", "Status": "status"},
    ),
    "search_notes": Tool(
        "[Search the notes.|Find notes by words.]",
        {"query": _errand(), "limit": _integer(1, 50)},
        "[Search my notes for {query}, at most {limit}.|Find up to {limit} notes about {query}.]",
        "the notes",
        lambda w, a: {"query": a["query"], "hits": w.between(0, a["limit"])},
        "[{hits} notes match {query}.|I found {hits} notes about {query}.]",
        {"Query": "query", "Hits": "hits"},
    ),
}
"""By name. Conversations draw `get_weather` more often than the others."""
