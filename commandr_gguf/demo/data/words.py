"""Word lists of the generated examples. Proper names are mostly made up by `names`; these are the plain words."""

from __future__ import annotations

FIRST_NAMES = """
    Ada Agnes Akira Alma Amara Amir Ana Anders Anya Aria Arthur Aya Beatriz Bella Ben Bianca Bruno Carla Carmen Celia
    Chen Chloe Clara Dana Daniel Dario David Dina Dora Elena Elias Elin Ella Emil Emma Enzo Erik Esther Eva Fatima Felix
    Fiona Flora Frank Gabriel Gia Grace Greta Hana Hannah Harun Hector Hugo Ida Igor Ines Ingrid Iris Isaac Ivan Jack
    Jana Jin Joan Jonas Jules Julia Kai Karim Karl Kira Lars Laura Lea Leila Lena Leo Lina Liv Lucas Lucia Luis Luna
    Mara Marco Maria Mateo Maya Mei Mia Mila Mina Nadia Nina Noah Nora Olga Oscar Otto Pablo Paul Petra Rafael Rosa Ruth
    Sam Sara Selma Simon Sofia Stella Tara Theo Tomas Uma Vera Viktor Walter Yara Yuki Zara Zoe
""".split()

LAST_NAMES = """
    Abbott Adler Ahmed Almeida Andersen Bauer Becker Berg Bianchi Blake Blum Brandt Brooks Campos Carter Castro Cohen
    Costa Cruz Dahl Diaz Drake Duarte Dubois Engel Fischer Fontaine Foster Frost Garcia Gomez Grant Green Haas Hansen
    Hart Hayes Hoffman Holm Ibrahim Ito Jansen Jensen Kaya Keller Khan Kim Klein Koch Kovac Kumar Lang Larsen Lee Lind
    Lopez Martin Mendes Meyer Moreau Mori Morris Nakamura Nielsen Novak Ortega Park Patel Pereira Perez Petrov Quinn
    Ramos Reyes Ricci Rivera Rossi Roth Roy Santos Sato Schmidt Silva Singh Sokolov Stein Stone Suzuki Tanaka Torres
    Vargas Vogel Wagner Walsh Wang Weber West Winter Wolf Wong Wright Yamada Young Zhang Ziegler
""".split()

PLACES = """
    Accra Almaty Amsterdam Ankara Athens Baku Bamako Bari Basel Bath Beirut Belfast Bergen Berlin Bern Bilbao Bogota
    Bologna Boston Bremen Brno Bruges Cairo Calgary Cardiff Chennai Chicago Cork Dakar Dallas Delhi Denver Dublin
    Edinburgh Essen Florence Fukuoka Galway Geneva Genoa Ghent Graz Haifa Halifax Hamburg Hanoi Havana Helsinki Houston
    Istanbul Izmir Jakarta Kobe Krakow Kyoto Lagos Leeds Leipzig Lima Lisbon Ljubljana London Lyon Madrid Malaga Manila
    Marseille Melbourne Memphis Miami Milan Montreal Munich Nairobi Nantes Naples Nice Odense Osaka Oslo Ottawa Oxford
    Palermo Paris Perth Porto Prague Quebec Quito Riga Rome Rotterdam Salzburg Santiago Sapporo Seoul Seville Sofia
    Sydney Tallinn Tampere Tokyo Toronto Trieste Tunis Turin Utrecht Valencia Venice Vienna Vilnius Warsaw York Zagreb
    Zurich
""".split()

MATERIALS = """
    granite marble oak pine steel iron bronze copper brick clay limestone sandstone slate glass concrete bamboo cedar
    aluminum brass titanium cork leather cotton wool silk linen wax felt paper plaster
""".split()

COLORS = """
    red blue green yellow orange purple white black gray brown pink silver golden turquoise violet crimson beige ivory
    navy olive scarlet teal amber maroon
""".split()

FOODS = """
    rice lentils beans salmon tuna pumpkin potatoes noodles mushrooms almonds honey cheese spinach tomatoes lemons
    apples pears plums cherries carrots onions garlic ginger barley oats walnuts olives peppers chickpeas cabbage
    butter yogurt cinnamon saffron coconut mango basil mint leeks figs dates berries seaweed nectar seeds insects grass
    roots clover moss acorns snails worms fish leaves
""".split()

PRODUCTS = """
    bicycles clocks lamps shoes chairs tables violins guitars pianos bottles carpets candles soap ceramics knives
    watches boats engines pumps tents backpacks gloves hats coats toys puzzles books maps pens paper cameras telescopes
    batteries sensors tractors ladders umbrellas mirrors baskets kites drums pottery lace perfume chocolate bread beer
    cider tea coffee jam salt
""".split()

OCCUPATIONS = """
    architect baker biologist botanist carpenter chemist composer dentist doctor engineer farmer gardener geologist
    historian journalist judge lawyer librarian mathematician mechanic musician nurse painter photographer physicist
    pilot poet sailor sculptor singer surgeon tailor teacher translator weaver writer astronomer dancer
""".split()

ANIMALS = """
    frog owl lizard fox beetle turtle crane otter bat spider heron mouse deer gecko moth snake parrot crab eel goat
    finch squirrel badger hare toad seal
""".split()

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

MONTHS = """
    January February March April May June July August September October November December
""".split()

LANGUAGES = """
    French Spanish Italian German Portuguese Japanese Korean Chinese Arabic Dutch Greek Polish Turkish Hindi
    Swedish Danish Finnish Czech Hebrew Thai Vietnamese Swahili Norwegian
""".split()

# None of these is asked for by a relation of `relations`.
ATTRIBUTES = """
    height width capacity depth age code password owner manager motto score rank rating temperature voltage fee
    target limit version status size area volume yield nickname symbol slogan anthem currency diameter radius
    frequency pressure density salary rent tax discount balance quota dosage license format channel route gate
    platform shelf lot seat
""".split()

TOPICS = """
    solar panels|coral reefs|ancient Rome|jazz piano|sourdough bread|wind turbines|chess openings|dark matter|urban
    gardens|electric cars|glass blowing|medieval castles|bird migration|ocean currents|stamp collecting|tax law|yoga
    poses|mountain rescue|rain forests|silent films|honey bees|steam engines|desert plants|sign language|tidal
    power|cheese making|opera singers|sailing knots|wild mushrooms|paper folding|space probes|river otters|night
    trains|winter sports|street art|folk dances|deep learning|vitamin deficiency|marathon training|garden ponds|bee
    keeping|old maps|quantum physics|knitting patterns|volcanic islands|polar bears|comic books|clay pottery|green
    tea|city parks
"""
TOPICS_LIST = [" ".join(topic.split()) for topic in TOPICS.split("|")]
