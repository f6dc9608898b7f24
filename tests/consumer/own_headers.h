#pragma once
// Each function is compiled with the one public header that declares what it uses.

#include <memory>
#include <string>

namespace torch::nn {
class Module;
}

/// Saves an adapter on `base` and loads it again; the fingerprint that the file holds.
std::string saved_and_loaded(torch::nn::Module& base, const std::string& folder, const std::string& base_fingerprint);
std::string fingerprint_of(const torch::nn::Module& base);
