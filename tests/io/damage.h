#pragma once
// Damaging files on purpose: whatever the bytes, reading succeeds or throws moelora::Error.

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>

#include "moelora/io/error.h"

namespace moelora::io {

/// Without the syncing of an atomic write: these tests write thousands of files.
inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct DamageReport {
  int loaded = 0;
  int refused = 0;
};

/// Tries `load` once with the file as it is now and counts; any exception but moelora::Error is a failure of the test.
template <typename Load>
void try_load(Load&& load, const std::string& what, DamageReport& report) {
  try {
    load();
    ++report.loaded;
  } catch (const Error&) {
    ++report.refused;
  } catch (const std::exception& error) {
    ADD_FAILURE() << what << ": not an error of ours: " << error.what();
  }
}

/// Flips each bit of the bytes [begin, end), every `step`-th byte, one at a time, and loads.
template <typename Load>
DamageReport flip_every_bit(const std::filesystem::path& path, std::size_t begin, std::size_t end, Load&& load,
                            std::size_t step = 1) {
  DamageReport report;
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (std::size_t at = begin; at < end; at += step) {
    file.seekg(static_cast<std::streamoff>(at));
    const auto original = static_cast<char>(file.get());
    const auto put = [&](char byte) {
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte).flush();
    };
    for (int bit = 0; bit < 8; ++bit) {
      put(static_cast<char>(original ^ (1 << bit)));
      try_load(load, detail::concat("byte ", at, " bit ", bit), report);
    }
    put(original);
  }
  return report;
}

}  // namespace moelora::io
