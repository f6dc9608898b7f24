#include "moelora/adapter/fingerprint.h"

#include "own_headers.h"

std::string fingerprint_of(const torch::nn::Module& base) { return moelora::fingerprint(base); }
