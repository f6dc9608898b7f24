#pragma once
// The ids of words met lately. Bounded, and safe to use from several threads: a slot for each hash, the last word
// keeps it.

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::model::tokenizers {

class WordCache {
 public:
  static constexpr std::size_t kLongestWord = 48;  ///< bytes; longer ones are not kept

  WordCache();
  /// Appends the word's ids; false if it is not here.
  bool append(std::string_view word, std::vector<std::int64_t>& ids) const;
  void keep(std::string_view word, const std::int64_t* ids, std::size_t count);

 private:
  static constexpr std::size_t kSlots = 1 << 15;
  static constexpr std::size_t kLocks = 64;
  struct Slot {
    std::string word;
    std::vector<std::int32_t> ids;
  };
  static std::size_t slot_of(std::string_view word);

  std::unique_ptr<Slot[]> slots_;
  mutable std::array<std::mutex, kLocks> locks_;
};

}  // namespace moelora::model::tokenizers
