//! The Noise NK channel between a client and the fleet, inside the requests.
