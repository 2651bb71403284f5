"""Where the time goes: trace-event files of runs, with a lane of measured and a lane of modelled time."""
