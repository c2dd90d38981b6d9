"""Mining with a language model: calls out, validated lessons in, a ledger of every call that ended.

complete, client, limits, wire  a request and its reply, over any OpenAI-compatible server
prompts/, calls                 what is asked, about which attempts
reply, quotes, answer           what comes back, read, repaired, tied to its places
ledger, background, extract     many at once, none twice
rewording                       one wording for near duplicates
"""
