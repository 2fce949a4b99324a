"""The active currency codes of ISO 4217 (list one, state of 2026), and a table for looking one up.

In: nothing. Out: `CODES` for plain Python, `TABLE` for the decoder's loop. The list holds funds,
metals and the codes for tests (XTS) and no currency (XXX) too: whether a payment makes sense is the
model's question, whether a code exists is this file's.
"""

import numpy as np
from numpy.typing import NDArray

LETTERS = 26

CODES = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
    CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP
    GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR
    KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN
    MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
    SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX
    USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD
    XPF XPT XSU XTS XUA XXX YER ZAR ZMW ZWG
    """.split()  # noqa: SIM905 -- a list of 178 literals would fill the page
)


def _table() -> NDArray[np.bool_]:
    table = np.zeros((LETTERS, LETTERS, LETTERS), np.bool_)
    for code in CODES:
        table[tuple(ord(letter) - ord("A") for letter in code)] = True
    table.flags.writeable = False
    return table.ravel()


TABLE = _table()
"""bool (26^3,): entry 676·a + 26·b + c says whether the letters a, b, c (0 to 25) are a code."""
