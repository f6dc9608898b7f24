#include "model/tokenizers/word_cache.h"

#include <functional>

namespace moelora::model::tokenizers {

WordCache::WordCache() : slots_(std::make_unique<Slot[]>(kSlots)) {}

std::size_t WordCache::slot_of(std::string_view word) { return std::hash<std::string_view>()(word) % kSlots; }

bool WordCache::append(std::string_view word, std::vector<std::int64_t>& ids) const {
  if (word.size() > kLongestWord) {
    return false;
  }
  const std::size_t slot = slot_of(word);
  const std::lock_guard<std::mutex> lock(locks_[slot % kLocks]);
  if (slots_[slot].word != word) {
    return false;
  }
  ids.insert(ids.end(), slots_[slot].ids.begin(), slots_[slot].ids.end());
  return true;
}

void WordCache::keep(std::string_view word, const std::int64_t* ids, std::size_t count) {
  if (word.size() > kLongestWord) {
    return;
  }
  const std::size_t slot = slot_of(word);
  const std::lock_guard<std::mutex> lock(locks_[slot % kLocks]);
  slots_[slot].word = word;
  slots_[slot].ids.assign(ids, ids + count);
}

}  // namespace moelora::model::tokenizers
