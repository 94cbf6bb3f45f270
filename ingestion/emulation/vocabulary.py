"""The words that synthetic posts are made of, and the value sets of the public data."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split("|"))


# Plain facts: the value sets of the public data

CATEGORIES = (
    "art",
    "beauty",
    "christmas",
    "diy-and-crafts",
    "education",
    "event-planning",
    "finance",
    "home-decor",
    "mens-fashion",
    "quotes",
    "tattoos",
    "travel",
    "vehicles",
)

COUNTRIES = _words(
    """
    Afghanistan | Albania | Algeria | American Samoa | Andorra | Angola | Anguilla |
    Antarctica (the territory South of 60 deg S) | Antigua and Barbuda | Argentina | Armenia |
    Aruba | Australia | Austria | Azerbaijan | Bahamas | Bahrain | Bangladesh | Barbados | Belarus |
    Belgium | Belize | Benin | Bermuda | Bhutan | Bolivia | Bosnia and Herzegovina | Botswana |
    Bouvet Island (Bouvetoya) | Brazil | British Indian Ocean Territory (Chagos Archipelago) |
    British Virgin Islands | Brunei Darussalam | Bulgaria | Burkina Faso | Burundi | Cambodia |
    Cameroon | Canada | Cape Verde | Cayman Islands | Central African Republic | Chad | Chile |
    China | Christmas Island | Cocos (Keeling) Islands | Colombia | Comoros | Congo | Cook Islands |
    Costa Rica | Cote d'Ivoire | Croatia | Cuba | Cyprus | Czech Republic | Denmark | Djibouti |
    Dominica | Dominican Republic | Ecuador | Egypt | El Salvador | Equatorial Guinea | Eritrea |
    Estonia | Ethiopia | Falkland Islands (Malvinas) | Faroe Islands | Fiji | Finland | France |
    French Guiana | French Polynesia | French Southern Territories | Gabon | Gambia | Georgia |
    Germany | Ghana | Gibraltar | Greece | Greenland | Grenada | Guadeloupe | Guam | Guatemala |
    Guernsey | Guinea | Guinea-Bissau | Guyana | Haiti | Heard Island and McDonald Islands |
    Holy See (Vatican City State) | Honduras | Hong Kong | Hungary | Iceland | India | Indonesia |
    Iran | Iraq | Ireland | Isle of Man | Israel | Italy | Jamaica | Japan | Jersey | Jordan |
    Kazakhstan | Kenya | Kiribati | Korea | Kuwait | Kyrgyz Republic |
    Lao People's Democratic Republic | Latvia | Lebanon | Lesotho | Liberia |
    Libyan Arab Jamahiriya | Liechtenstein | Lithuania | Luxembourg | Macao | Macedonia |
    Madagascar | Malawi | Malaysia | Maldives | Mali | Malta | Marshall Islands | Martinique |
    Mauritania | Mauritius | Mayotte | Mexico | Micronesia | Moldova | Monaco | Mongolia |
    Montenegro | Montserrat | Morocco | Mozambique | Myanmar | Namibia | Nauru | Nepal |
    Netherlands | Netherlands Antilles | New Caledonia | New Zealand | Nicaragua | Niger | Nigeria |
    Niue | Norfolk Island | Northern Mariana Islands | Norway | Oman | Pakistan | Palau |
    Palestinian Territory | Panama | Papua New Guinea | Paraguay | Peru | Philippines |
    Pitcairn Islands | Poland | Portugal | Puerto Rico | Qatar | Reunion | Romania |
    Russian Federation | Rwanda | Saint Barthelemy | Saint Helena | Saint Kitts and Nevis |
    Saint Lucia | Saint Martin | Saint Pierre and Miquelon | Saint Vincent and the Grenadines |
    Samoa | San Marino | Sao Tome and Principe | Saudi Arabia | Senegal | Serbia | Seychelles |
    Sierra Leone | Singapore | Slovakia (Slovak Republic) | Slovenia | Solomon Islands | Somalia |
    South Africa | South Georgia and the South Sandwich Islands | Spain | Sri Lanka | Sudan |
    Suriname | Svalbard & Jan Mayen Islands | Swaziland | Sweden | Switzerland |
    Syrian Arab Republic | Taiwan | Tajikistan | Tanzania | Thailand | Timor-Leste | Togo |
    Tokelau | Tonga | Trinidad and Tobago | Tunisia | Turkey | Turkmenistan |
    Turks and Caicos Islands | Tuvalu | Uganda | Ukraine | United Arab Emirates | United Kingdom |
    United States Minor Outlying Islands | United States Virgin Islands | United States of America |
    Uruguay | Uzbekistan | Vanuatu | Venezuela | Vietnam | Wallis and Futuna | Western Sahara |
    Yemen | Zambia | Zimbabwe
    """
)


# Invented words. A few hold what JSON must escape or what is not ASCII.

# For each category in turn, ten subjects.
SUBJECTS = tuple(
    _words(line)
    for line in (
        """
        paper lanterns | charcoal sketches | clay birds | ink landscapes | mosaic trays |
        wire sculptures | linocut prints | watercolour maps | gouache studies |
        collage journals
        """,
        """
        braided buns | oat masks | velvet lipsticks | curl routines | herbal rinses |
        berry nails | dewy looks | rosewater mists | brow shapes | honey scrubs
        """,
        """
        pinecone garlands | gingerbread cabins | felt stockings | advent boxes |
        orange wreaths | window stars | candle tables | sledge displays | wrapping ribbons |
        snow globes
        """,
        """
        pallet benches | macramé hangers | button bowls | jar lamps | rope baskets |
        denim pouches | painted crates | yarn rugs | cork boards | bead curtains
        """,
        """
        fraction games | reading corners | spelling trails | weather charts | counting cards |
        science jars | story dice | quiet timers | classroom maps | handwriting mats
        """,
        """
        garden weddings | balloon arches | seating charts | barn dinners | dessert tables |
        paper invitations | picnic birthdays | lantern walks | team retreats | harvest suppers
        """,
        """
        envelope budgets | savings ladders | side incomes | grocery ledgers | debt trackers |
        pension plans | no-spend weeks | money diaries | bill calendars | rainy-day funds
        """,
        """
        window seats | linen curtains | hallway hooks | plaster walls | attic bedrooms |
        tiled kitchens | reading nooks | rattan chairs | balcony shelves | entry tables
        """,
        """
        wool overcoats | suede boots | linen suits | canvas trainers | knit ties |
        field jackets | rolled chinos | checked scarves | travel watches | denim layers
        """,
        """
        morning lines | words for winter | sayings on patience | notes to a friend |
        verses for the desk | thoughts on change | lines about the sea | kind reminders |
        proverbs for teams | short mottos
        """,
        """
        fern sleeves | single-line cats | compass wrists | dotwork moons | wave ankles |
        tiny anchors | moth shoulders | poppy forearms | mountain bands | script collarbones
        """,
        """
        night trains | island ferries | canyon trails | old-town weekends | desert camps |
        fjord roads | market mornings | lighthouse walks | carry-on lists | monsoon journeys
        """,
        """
        canal boats | cargo bikes | rally coupés | camper vans | vintage scooters |
        electric hatchbacks | desert buggies | wooden trams | cabin trucks | sidecar rides
        """,
    )
)

ADJECTIVES = _words(
    """
    Simple | Bold | Rustic | Modern | Tiny | Cosy | Budget | Handmade | Weekend | Timeless |
    Bright | Unusual | Minimal | Colourful | Classic | Clever | Slow | Beginner | Nordic |
    Coastal | Vintage
    """
)

TITLE_OPENINGS = (
    "",
    "",
    "5 ",
    "7 ",
    "12 ",
    "15 ",
    "21 ",
    "25 ",
    "30 ",
    "40 ",
    "101 ",
    "How We Make ",
    "How to Choose ",
    "The Best ",
    "Our Favourite ",
    "DIY: ",
    "Why We Love ",
    "A Guide to ",
    "Before & After: ",
    "What Nobody Says About ",
    "Ideas for ",
    "Easy & ",
    "Très ",
    '"Almost" ',
)

TITLE_ENDINGS = (
    "",
    "",
    "",
    "",
    " You Can Try Today",
    " for Small Rooms",
    " on a Budget",
    " That Last",
    " | Quiet Harbour",
    " | The Long Table",
    " - Step by Step",
    " - Pictures & Notes",
    " for Busy People!",
    " That Friends Ask About",
    " (Free Checklist)",
    " to Keep for Later…",
    " in an Afternoon",
    " Without Special Tools",
    " Our Readers Sent Us",
    " for Every Season",
    " 🌿",
    " – the “patient” way",
    ' in 10" or Less',
    " / new & old",
    " - A Complete Guide for the Rest of Us",
    " (and What to Do With All That Is Left Over)",
    ": Questions and Answers | Quiet Harbour",
    " That Look Far More Expensive Than They Are",
)

SENTENCES_FIRST = (
    "Everything you need to know before you start with",
    "We spent a whole summer collecting",
    "A short guide, with pictures, to",
    "If you have an hour this weekend, have a look at",
    "There is no better time of year for",
    "Save this for later: our notes on",
    "Ten people told us what they think about",
    "A reader wrote to ask about",
    "It doesn't take much money to enjoy",
    "Here is what we learnt in three years of",
    "My grandmother had firm opinions about",
    "Looking for something new? Try",
    "From the first plan to the last detail:",
    "You asked, we listened. This week:",
    "Small changes make all the difference with",
    "The café downstairs is full of",
    "Nobody believed we could manage without",
    "All the materials, steps and costs of",
    "A calm, honest comparison of",
    'They call it "effortless", and it is:',
    "What we would do differently next time with",
    "Half the work is choosing the right",
    "Print the list, take it along and enjoy",
    "Our most popular page is still the one about",
)

SENTENCES_MIDDLE = (
    ", and why they are worth the trouble.",
    ". Find out which ones suit you best.",
    ". Includes a list of what to buy & where.",
    " that look good all year round.",
    ", from the plainest to the most daring.",
    ". No experience needed, only some patience.",
    ", tested by us and by our neighbours.",
    " and other things that make a day better.",
    ", with a plan for every single day of the week.",
    ". Written for beginners, useful for everyone.",
    " – the good, the bad and the surprising.",
    ". See the whole series for more.",
    ", explained in plain words.",
    " in less time than it takes to make tea.",
    ", once you know the trick we show here.",
    ". It is easier than you'd think.",
)

# Texts that the site cut short end in an ellipsis and a non-breaking space.
SENTENCES_LAST = (
    "",
    "",
    "",
    "",
    " Tell us how it went!",
    " Share it with someone who needs it.",
    " All photographs are our own. 📷",
    " #ideas #inspiration",
    " Part two follows.",
    " The third one is our favourite; we would make it again tomorrow if there were…\xa0",
    " We also show what went wrong, what it cost us and how we would go about it…\xa0",
    " Start with the smallest one and work your way up. After a few days you will…\xa0",
    " Keep the list at hand, since the order of the steps matters more than you…\xa0",
    " Most of it can be done in the evening, and children love to help with the…\xa0",
    " You may already have all of the things you need at home, so have a look in…\xa0",
)

FIRST_NAME_HEADS = _words(
    """
    Ab | Ad | Al | An | Bel | Bri | Cal | Cor | Dar | Del | El | Fen | Gal | Hol | Is | Jor |
    Kel | Lor | Mar | Nel | Or | Per | Ros | Sel | Tal | Ul | Ver | Zo
    """
)
FIRST_NAME_TAILS = _words(
    """
    a | abel | amie | andro | as | e | ena | eric | ette | ian | ika | o | orin | é
    """
)
LAST_NAME_HEADS = _words(
    """
    Alder | Arn | Ash | Barn | Beck | Bram | Cald | Clay | Dun | Elm | Fair | Gar | Hart |
    Holm | Ing | Kest | Lang | Mar | Nor | O'Brack | Pen | Quin | Ros | Sand | Thorn | Und |
    Vall | Wex
    """
)
LAST_NAME_TAILS = _words(
    """
    berg | bourne | by | combe | dale | den | feld | ford | gate | hurst | ington | ley | man |
    mere | ner | ock | quist | sen | ton | øe
    """
)

POSTERS_FIRST = _words(
    """
    Amber | Birch | Blue | Brass | Cedar | Clover | Copper | Coral | Cotton | Dusty | Ember |
    Fern | Flint | Folk | Gentle | Golden | Green | Hazel | Honey | Indigo | Ivory | Juniper |
    Kind | Lemon | Linen | Little | Lucky | Maple | Meadow | Mint | Misty | North | Oak |
    Olive | Paper | Pebble | Plain | Quiet | Rosé | Rustic | Saffron | Silver | Sunday |
    Thistle | Umber | Velvet | Willow | Yellow
    """
)
POSTERS_MIDDLE = _words(
    """
    Anchor | Attic | Barn | Basket | Bench | Bicycle | Boat | Bridge | Button | Cabin | Candle |
    Chapter | Compass | Corner | Door | Drawer | Feather | Fox | Garden | Gate | Harbour |
    Heron | House | Kettle | Ladder | Lamp | Lantern | Map | Mill | Needle | Notebook |
    Orchard | Otter | Oven | Path | Pencil | Quilt | River | Shelf | Shore | Spoon | Table |
    Teapot | Thread | Trail | Valley | Wagon | Window
    """
)
POSTERS_LAST = (
    "",
    " Co.",
    " & Sons",
    " Studio",
    " Daily",
    " Blog",
    " | Lifestyle",
    " | Ideas for Home & Garden",
    " by Hand",
    " Letters",
    " ✨",
    " “Weekly”",
    " Magazine",
    " Market",
    " - Crafts, Recipes, Travel",
    " | Slow Living, Every Day",
    " Journal",
)
