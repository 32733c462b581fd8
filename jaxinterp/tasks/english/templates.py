"""The small mechanisms of the corpus: what a word or two elsewhere in the text decide, each in several forms.

Numbered symbols (`NAME1`) are the same wherever they stand in a text; plain ones are drawn anew. Many openings are
shared by several mechanisms, so that how a text begins does not tell what it will ask for.
"""

from collections.abc import Mapping

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES, write
from jaxinterp.tasks.grammar import Grammar, grammar

RULES: Grammar = PHRASES | grammar(
    {
        "DEGREE": tuple(" ".join(row) for row in v.DEGREES),
        "KIND": tuple(f"{kind} {thing}" for kind, things in v.KINDS.items() for thing in things),
        "LIKENESS": tuple(f"{thing} {quality}" for thing, quality in v.SIMILES.items()),
        "PARTICLE": tuple(" ".join(row) for row in v.PARTICLES),
        "SUM": tuple(
            f"{v.NUMBERS[a - 1]} {v.NUMBERS[b - 1]} {v.NUMBERS[a + b - 1]}" for a in range(1, 10) for b in range(1, 10)
        ),
        "ORDER": tuple(f"{v.ORDINALS[i]} {v.ORDINALS[i + 1]}" for i in range(11)),
        "HOUR": v.NUMBERS[:12],
        "SEASON": ("winter snowy", "summer hot", "spring rainy", "autumn foggy", "winter cold", "summer dry"),
        "GREETING": ("morning breakfast", "evening dinner", "afternoon lunch", "night bed"),
        "ACT": (
            "push pull",
            "open close",
            "buy sell",
            "start stop",
            "win lose",
            "arrive leave",
            "laugh cry",
            "rise fall",
        ),
        "DIRECTION": ("left right", "north south", "east west", "up down"),
        "GOES": (
            "walk walks walked walking",
            "cook cooks cooked cooking",
            "paint paints painted painting",
            "jump jumps jumped jumping",
            "work works worked working",
            "talk talks talked talking",
            "wait waits waited waiting",
            "play plays played playing",
            "listen listens listened listening",
            "climb climbs climbed climbing",
            "shout shouts shouted shouting",
            "whisper whispers whispered whispering",
        ),
    }
)

#: Mechanism -> its surface forms. `SYMBOL1.2` is the second word of what `SYMBOL1` stands for.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "either": (
        "NAME1 wanted either THING or THING CLOSE",
        "TIME , either the PERSON or the PERSON DID CLOSE",
        "it was either COLOR or COLOR , said NAME1 .",
    ),
    "neither": (
        "NAME1 was neither MOOD nor MOOD CLOSE",
        "neither the PERSON nor the PERSON DID CLOSE",
        "TIME , NAME1 had neither FOOD nor FOOD .",
    ),
    "both": (
        "both the PERSON and the PERSON DID CLOSE",
        "NAME1 liked both the COLOR OBJECT and the COLOR one CLOSE",
        "TIME , both NAME1 and NAME2 were MOOD .",
    ),
    "not_but": (
        "NAME1 bought not a OBJECT but an VOBJECT CLOSE",
        "not NAME1 but NAME2 DID CLOSE",
        "the OBJECT was not COLOR but COLOR .",
    ),
    "not_only": (
        "NAME1 was not only MOOD but also MOOD CLOSE",
        "not only the PERSON but also the PERSON DID .",
        "TIME , NAME1 not only DID but also DID .",
    ),
    "between": (
        "between MONTH and MONTH , NAME1 DID CLOSE",
        "the PLACE is between the PLACE and the PLACE .",
        "NAME1 sat between the PERSON and the PERSON CLOSE",
    ),
    "from_to": (
        "NAME1 walked from the PLACE to the PLACE CLOSE",
        "from WEEKDAY to WEEKDAY the PLACE was closed .",
        "the OBJECT changed from COLOR to COLOR CLOSE",
    ),
    "so_that": (
        "NAME1 was so MOOD that HE1 DID CLOSE",
        "it was so WEATHER that nobody went to the PLACE .",
        "the OBJECT was so QUALITY that the PERSON DID .",
    ),
    "too_to": (
        "NAME1 was too MOOD to GOES1.1 CLOSE",
        "the PERSON is too QUALITY to GOES1.1 .",
        "TIME , it was too WEATHER to GOES1.1 at the PLACE .",
    ),
    "as_as": (
        "NAME1 is as QUALITY as the PERSON CLOSE",
        "the OBJECT was as WEATHER as the OBJECT .",
        "NAME1 came as ADVERB as NAME2 CLOSE",
        "NAME1 GOES1.2 as well as NAME2 CLOSE",
    ),
    "simile": (
        "the OBJECT was as LIKENESS1.2 as LIKENESS1.1 .",
        "NAME1 saw a SINGULAR , LIKENESS1.2 as LIKENESS1.1 CLOSE",
        "LIKENESS1.2 like LIKENESS1.1 , said the PERSON .",
    ),
    "comparison": (
        "NAME1 is DEGREE1.2 than NAME2 , so NAME2 is DEGREE1.4 CLOSE",
        "the SINGULAR is DEGREE1.2 than the SINGULAR CLOSE",
        "NAME1 is DEGREE1.1 but NAME2 is even DEGREE1.2 .",
    ),
    "superlative": (
        "NAME1 is the DEGREE1.3 of all , nobody is DEGREE1.2 CLOSE",
        "the DEGREE1.3 SINGULAR in the PLACE DID .",
        "many are DEGREE1.1 , but the PERSON is the DEGREE1.3 .",
    ),
    "opposite": (
        "the OBJECT is not DEGREE1.1 , it is DEGREE1.4 .",
        "NAME1 said it was DEGREE1.1 , the PERSON said it was DEGREE1.4 CLOSE",
        "the opposite of DEGREE1.1 is DEGREE1.4 .",
    ),
    "counting": (
        "NAME1 saw NUMBER PLURAL and one SINGULAR near the PLACE CLOSE",
        "there were NUMBER PLURAL , a SINGULAR and many PLURAL in the PLACE .",
        "TIME , a SINGULAR and NUMBER PLURAL were at the PLACE .",
    ),
    "sum": (
        "SUM1.1 and SUM1.2 make SUM1.3 .",
        "NAME1 had SUM1.1 coins and got SUM1.2 more . now HE1 has SUM1.3 CLOSE",
        "SUM1.1 plus SUM1.2 is SUM1.3 , said the PERSON .",
    ),
    "kind": (
        "a KIND1.2 is a kind of KIND1.1 .",
        "NAME1 likes every KIND1.1 , and most of all the KIND1.2 CLOSE",
        "the KIND1.2 is the QUALITY KIND1.1 of NAME1 .",
    ),
    "particle": (
        "the PERSON often PARTICLE1.1 PARTICLE1.2 the PERSON CLOSE",
        "NAME1 PARTICLE1.1 ADVERB PARTICLE1.2 the QUALITY PERSON .",
        "what NAME1 PARTICLE1.1 PARTICLE1.2 is the PLACE .",
    ),
    "tense": (
        "yesterday NAME1 GOES1.3 CLOSE today HE1 GOES1.2 again .",
        "tomorrow the PERSON will GOES1.1 CLOSE",
        "every WEEKDAY NAME1 GOES1.2 at the PLACE . last WEEKDAY HE1 GOES1.3 there too .",
        "now NAME1 is GOES1.4 . TIME HE1 GOES1.3 CLOSE",
    ),
    "infinitive": (
        "NAME1 wanted to GOES1.1 , and so HE1 GOES1.3 CLOSE",
        "the PERSON kept GOES1.4 CLOSE",
        "NAME1 can GOES1.1 and NAME2 can not GOES1.1 .",
    ),
    "pronoun": (
        "NAME1 was at the PLACE . then HE1 DID CLOSE",
        "TIME , NAME1 was MOOD . later HE1 DID CLOSE",
        "when NAME1 was MOOD , HE1 DID CLOSE",
    ),
    "possessive": (
        "NAME1 lost HIS1 OBJECT1 CLOSE the OBJECT1 was in HIS1 CONTAINER .",
        "TIME , NAME1 met HIS1 RELATIVE CLOSE",
        "NAME1 forgot HIS1 OBJECT at the PLACE .",
    ),
    "container": (
        "NAME1 put the ITEM1 in the CONTAINER1 . ASIDE the ITEM1 is in the CONTAINER1 .",
        "there is THING in the CONTAINER1 . NAME1 opened the CONTAINER1 CLOSE",
        "the ITEM1 is in the CONTAINER1 , the ITEM2 in the CONTAINER2 . for the ITEM1 NAME1 opens the CONTAINER1 .",
        "the ITEM1 is in the CONTAINER1 , the ITEM2 in the CONTAINER2 . for the ITEM2 NAME1 opens the CONTAINER2 .",
    ),
    "owner": (
        "NAME1 has the COLOR1 OBJECT1 and NAME2 has the COLOR2 one . the COLOR1 OBJECT1 is of NAME1 .",
        "NAME1 has the COLOR1 OBJECT1 and NAME2 has the COLOR2 one . the COLOR2 OBJECT1 is of NAME2 .",
        "NAME1 likes COLOR1 and NAME2 likes COLOR2 . so NAME2 took the COLOR2 OBJECT CLOSE",
        "NAME1 likes COLOR1 and NAME2 likes COLOR2 . so NAME1 took the COLOR1 OBJECT CLOSE",
    ),
    "question": (
        "where is the ITEM1 ? the ITEM1 is at the PLACE .",
        "who is at the PLACE1 ? NAME1 is at the PLACE1 CLOSE",
        "is NAME1 MOOD1 ? yes , NAME1 is MOOD1 CLOSE",
        "do NAME1 and NAME2 GOES1.1 every WEEKDAY ? yes , they do .",
        "what is in the CONTAINER1 ? in the CONTAINER1 there is THING .",
    ),
    "dialogue": (
        "NAME1 : hello NAME2 . NAME2 : hello NAME1 . NAME1 : it is WEATHER . NAME2 : yes , it is .",
        "NAME1 : where is the OBJECT1 ? NAME2 : the OBJECT1 is at the PLACE . NAME1 : thank you NAME2 .",
        "NAME1 asked NAME2 for THING . NAME2 said no to NAME1 CLOSE",
    ),
    "letter": (
        "dear NAME1 , ASIDE ASIDE yours , NAME2 .",
        "dear PERSON1 , thank you for the OBJECT1 . the OBJECT1 is QUALITY . your PERSON .",
        "dear NAME1 , on WEEKDAY1 I was at the PLACE . please come on WEEKDAY1 too . yours , NAME2 .",
    ),
    "negation": (
        "nobody has ever seen any OBJECT here .",
        "NAME1 never saw any SINGULAR CLOSE",
        "somebody has seen some PLURAL here CLOSE",
    ),
    "condition": (
        "if NAME1 is MOOD , then HE1 GOES1.2 CLOSE",
        "if it is WEATHER , then the PERSON will GOES1.1 .",
        "unless it is WEATHER , NAME1 will GOES1.1 CLOSE",
        "whatever the PERSON said , NAME1 DID CLOSE",
    ),
    "greeting": (
        "good GREETING1.1 , said NAME1 . it is time for GREETING1.2 .",
        "in the GREETING1.1 NAME1 was MOOD , and after GREETING1.2 MOOD .",
        "GREETING1.2 comes in the GREETING1.1 .",
    ),
    "season": (
        "in SEASON1.1 it is SEASON1.2 in LAND .",
        "it was SEASON1.1 and so the day was SEASON1.2 CLOSE",
        "NAME1 likes SEASON1.1 because it is SEASON1.2 .",
    ),
    "ordinal": (
        "NAME1 came ORDER1.1 and NAME2 came ORDER1.2 CLOSE",
        "the ORDER1.1 OBJECT1 is COLOR . the ORDER1.2 OBJECT1 is COLOR .",
        "after the ORDER1.1 day comes the ORDER1.2 .",
    ),
    "clock": (
        "the PLACE opens at HOUR1 and NAME1 came at HOUR1 CLOSE",
        "at HOUR1 NAME1 GOES1.3 . HE1 does so at HOUR1 every day .",
        "it is HOUR , said the PERSON .",
    ),
    "reversal": (
        "NAME1 went DIRECTION1.1 and came back DIRECTION1.2 CLOSE",
        "not DIRECTION1.1 but DIRECTION1.2 , said the driver .",
        "what is on the DIRECTION1.1 for NAME1 is on the DIRECTION1.2 for NAME2 .",
    ),
    "antonym": (
        "NAME1 will not ACT1.1 but ACT1.2 CLOSE",
        "some ACT1.1 and some ACT1.2 , said the PERSON .",
        "first they ACT1.1 , then they ACT1.2 .",
    ),
    "material": (
        "the OBJECT1 is made of MATERIAL1 . NAME1 likes MATERIAL1 CLOSE",
        "NAME1 bought a MATERIAL1 OBJECT1 . it is a QUALITY OBJECT1 of MATERIAL1 .",
        "is the OBJECT of MATERIAL or of MATERIAL ? ask NAME1 .",
    ),
    "recipe": (
        "take some FOOD1 and some FOOD2 . mix the FOOD1 with the FOOD2 and add FOOD3 .",
        "NAME1 has FOOD1 , FOOD2 and FOOD3 . first HE1 ate the FOOD1 , then the FOOD2 .",
        "no FOOD1 without FOOD2 , said the cook . so NAME1 bought FOOD1 and FOOD2 .",
    ),
    "article": (
        "the VPERSON1 came to the PLACE . NAME1 is an VPERSON1 too CLOSE",
        "the PERSON1 came to the PLACE . NAME1 is a PERSON1 too CLOSE",
        "NAME1 needs an VOBJECT1 . here is an VOBJECT1 , said the VPERSON .",
        "NAME1 needs a OBJECT1 . here is a OBJECT1 , said the PERSON .",
    ),
    "passive": (
        "the OBJECT was found by the PERSON CLOSE",
        "the OBJECT1 was taken by NAME1 . so NAME1 has the OBJECT1 CLOSE",
        "NAME1 was seen by the PERSON1 , and the PERSON1 was seen by NAME1 .",
    ),
    "relative": (
        "somebody who DID is MOOD CLOSE",
        "the OBJECT which NAME1 bought is QUALITY CLOSE",
        "NAME1 , who is MOOD , likes the OBJECT which is COLOR .",
    ),
    "price": (
        "the OBJECT1 costs NUMBER1 coins . NAME1 paid NUMBER1 coins CLOSE",
        "NAME1 sold the ITEM1 for NUMBER1 coins , and NAME2 bought the ITEM1 for NUMBER1 .",
        "a OBJECT costs NUMBER coins at the PLACE .",
    ),
    "route": (
        "from CITY1 to CITY2 and back from CITY2 to CITY1 , said NAME1 .",
        "NAME1 lives in CITY1 and works in CITY2 . in the morning HE1 goes to CITY2 .",
        "the road from CITY1 goes by CITY2 to CITY3 . NAME1 left CITY1 and came to CITY2 .",
    ),
    "filler": (
        "NAME1 went to the PLACE and bought THING CLOSE",
        "TIME , NAME1 had a COLOR OBJECT CLOSE",
        "NAME1 gave a OBJECT to the PERSON CLOSE",
        "NAME1 likes the COLOR OBJECT more than the COLOR OBJECT .",
        "ASIDE the PERSON ADVERB went to the PLACE CLOSE",
        "the OBJECT1 was on the table in the PLACE . NAME1 needs the OBJECT1 CLOSE",
        "the sign said LETTER NUMBER . the next said LETTER NUMBER .",
        "when NAME1 was MOOD , the PERSON gave THING to NAME1 CLOSE",
        "NAME1 cares for the PERSON and cooked some FOOD CLOSE",
        "ASIDE ASIDE",
    ),
}


def draw_template(mechanism: str, choose: Chooser) -> list[str]:
    """One text of a small mechanism, word by word.

    Raises:
      KeyError: no such mechanism.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> " ".join(draw_template("tense", chooser(1)))
      'tomorrow the lawyer will cook .'
    """
    words = []
    roles: dict[str, str] = {}
    # A part of a drawn row (`DEGREE1.2`) is written once the row is drawn.
    for word in choose(_SPLIT[mechanism]):
        role, dot, part = word.partition(".")
        if dot and part:
            if role not in roles:
                write((role,), choose, RULES, roles)
            words.append(roles[role].split()[int(part) - 1])
        else:
            words.append(word)
    return write(words, choose, RULES, roles)


_SPLIT = {name: tuple(tuple(text.split()) for text in texts) for name, texts in TEMPLATES.items()}
