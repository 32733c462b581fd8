"""Facts that have a one-word answer, by relation: what holds of a subject, and sentences that ask for it.

Every sentence of a relation goes with every subject of it, so that one subject can stand in for another. Facts that
change or are disputed are not here, nor subjects that have their answer as one of their words.
"""

from typing import NamedTuple


class Fact(NamedTuple):
    """A subject, as it is written in a sentence, and its answer."""

    subject: str
    answer: str


class Relation(NamedTuple):
    """Sentences with a gap for the subject, which end where the answer follows, and what they are true of."""

    templates: tuple[str, ...]
    facts: tuple[Fact, ...]


def _relation(templates: tuple[str, ...], facts: str) -> Relation:
    """A relation from lines "answer: subject, subject, ..."."""
    lines = [line.split(":") for line in facts.strip().splitlines()]
    return Relation(
        templates,
        tuple(Fact(subject.strip(), answer.strip()) for answer, subjects in lines for subject in subjects.split(",")),
    )


RELATIONS = {
    "capital": _relation(
        ("The capital of {SUBJECT} is", "The government of {SUBJECT} sits in", "The capital city of {SUBJECT} is"),
        """
        Paris: France
        Berlin: Germany
        Rome: Italy
        Madrid: Spain
        Lisbon: Portugal
        Athens: Greece
        Vienna: Austria
        Warsaw: Poland
        Budapest: Hungary
        Oslo: Norway
        Stockholm: Sweden
        Helsinki: Finland
        Copenhagen: Denmark
        Dublin: Ireland
        Brussels: Belgium
        Sofia: Bulgaria
        Bucharest: Romania
        Belgrade: Serbia
        Zagreb: Croatia
        Riga: Latvia
        Tallinn: Estonia
        Vilnius: Lithuania
        Moscow: Russia
        Ankara: Turkey
        Cairo: Egypt
        Baghdad: Iraq
        Tehran: Iran
        Damascus: Syria
        Beirut: Lebanon
        Amman: Jordan
        Riyadh: Saudi Arabia
        Doha: Qatar
        Kabul: Afghanistan
        Islamabad: Pakistan
        Kathmandu: Nepal
        Beijing: China
        Tokyo: Japan
        Seoul: South Korea
        Pyongyang: North Korea
        Bangkok: Thailand
        Hanoi: Vietnam
        Canberra: Australia
        Wellington: New Zealand
        Ottawa: Canada
        Havana: Cuba
        Kingston: Jamaica
        Lima: Peru
        Santiago: Chile
        Caracas: Venezuela
        Quito: Ecuador
        Nairobi: Kenya
        Accra: Ghana
        Dakar: Senegal
        Kampala: Uganda
        Luanda: Angola
        Harare: Zimbabwe
        Tripoli: Libya
        Rabat: Morocco
        Mogadishu: Somalia
        """,
    ),
    "city": _relation(
        ("{SUBJECT} is in the city of", "{SUBJECT} is located in the city of", "{SUBJECT} can be found in the city of"),
        """
        Paris: The Eiffel Tower, The Louvre, The Arc de Triomphe, The Moulin Rouge
        Rome: The Colosseum, The Trevi Fountain, The Circus Maximus
        London: Big Ben, Buckingham Palace, The British Museum, Trafalgar Square
        Berlin: The Brandenburg Gate, Checkpoint Charlie, The Reichstag
        Moscow: The Kremlin, Red Square, The Bolshoi Theatre
        Athens: The Acropolis, The Parthenon
        Madrid: The Prado Museum
        Barcelona: The Sagrada Familia, Camp Nou
        Vienna: The Hofburg
        Prague: The Charles Bridge, Wenceslas Square
        Amsterdam: The Rijksmuseum, The Anne Frank House
        Brussels: The Atomium
        Copenhagen: The Little Mermaid, Tivoli Gardens
        Florence: The Uffizi Gallery
        Milan: La Scala
        Edinburgh: Holyrood Palace
        Istanbul: Hagia Sophia, The Blue Mosque, The Grand Bazaar
        Beijing: The Forbidden City, Tiananmen Square
        Tokyo: Shibuya Crossing
        Dubai: The Burj Khalifa
        Mumbai: The Gateway of India
        Toronto: The CN Tower
        Chicago: Wrigley Field, The Willis Tower
        Seattle: The Space Needle
        Boston: Fenway Park
        Washington: The White House, The Lincoln Memorial, The Smithsonian
        Philadelphia: The Liberty Bell
        Memphis: Graceland
        """,
    ),
    "language": _relation(
        ("In {SUBJECT}, most people speak", "The main language of {SUBJECT} is", "Schools in {SUBJECT} teach in"),
        """
        French: France
        German: Germany, Austria
        Italian: Italy
        Spanish: Spain, Mexico, Argentina, Chile, Cuba, Colombia, Venezuela
        Portuguese: Portugal, Brazil
        English: England, Australia
        Greek: Greece
        Polish: Poland
        Swedish: Sweden
        Danish: Denmark
        Norwegian: Norway
        Finnish: Finland
        Hungarian: Hungary
        Romanian: Romania
        Bulgarian: Bulgaria
        Russian: Russia
        Turkish: Turkey
        Arabic: Egypt, Syria, Jordan, Saudi Arabia, Libya, Yemen
        Persian: Iran
        Hebrew: Israel
        Japanese: Japan
        Korean: South Korea
        Thai: Thailand
        Vietnamese: Vietnam
        """,
    ),
    "continent": _relation(
        ("{SUBJECT} is a country on the continent of", "{SUBJECT} is on the continent of"),
        """
        Europe: France, Germany, Italy, Spain, Portugal, Greece, Poland, Hungary, Norway, Sweden, Finland, Ireland
        Africa: Kenya, Ghana, Senegal, Uganda, Angola, Zimbabwe, Libya, Morocco, Somalia, Nigeria, Ethiopia, Sudan
        Asia: China, Japan, India, Thailand, Vietnam, Nepal, Mongolia, Iraq, Iran, Pakistan, South Korea, Cambodia
        """,
    ),
    "maker": _relation(
        ("{SUBJECT} is made by", "{SUBJECT} is a product of", "{SUBJECT} belongs to a company called"),
        """
        Apple: The iPhone, The iPad, The MacBook, The iPod
        Microsoft: The Xbox, Windows, Excel, PowerPoint
        Google: Gmail, The Chrome browser, The Android system
        Amazon: The Kindle, Alexa
        Sony: The PlayStation, The Walkman
        Nintendo: The Game Boy, The Wii
        Samsung: The Galaxy phone
        Intel: The Pentium processor
        Adobe: Photoshop, Acrobat
        Ford: The Mustang
        Toyota: The Corolla, The Prius
        Honda: The Civic
        Porsche: The Cayenne
        """,
    ),
}
