#pragma once
// SHA256SUMS: the checksums of every other file of a folder, in the format of sha256sum, so that `sha256sum -c` can
// check a folder too.

#include <filesystem>

namespace moelora::train {

inline constexpr const char* kChecksumsFile = "SHA256SUMS";

void write_checksums(const std::filesystem::path& folder);

/// Error naming the first listed file that is missing or differs, or saying that the list itself is damaged.
/// `required`: a file that the list must hold.
void verify_checksums(const std::filesystem::path& folder, const std::string& required);

}  // namespace moelora::train
