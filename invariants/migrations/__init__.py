"""The chain of migrations itself as a subject: is it safe on data, under load, and on the way?

`course` is the chain as steps and how one is taken, `shelf` keeps a database at each revision,
`loads` makes lawful data, `rows` reads and compares what is there, and each kind of failure has a
module of its own: `data`, `chain`, `owner`, `locks`, `clients`, `killed`. `run` goes through all of
them. May know of everything below it, of no report.
"""
