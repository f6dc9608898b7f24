#pragma once
// Settings that belong to one method, or to several of one file: keys of the experiment's configuration that only
// their file knows. Methods return them with their defaults (Method::own_settings), the configuration reads and writes
// them with its own keys.

#include <memory>
#include <typeinfo>
#include <vector>

#include "moelora/io/fields.h"

namespace moelora::experiment {

class OwnSettings {
 public:
  virtual ~OwnSettings() = default;
  virtual void fields(io::FieldVisitor& visit) = 0;  ///< io/fields.h
};

/// The settings of all methods, one of each type.
class AllOwnSettings {
 public:
  /// Another of a type that is there is dropped.
  void add(std::shared_ptr<OwnSettings> settings) {
    for (const auto& known : all_) {
      const OwnSettings& there = *known;
      const OwnSettings& added = *settings;
      if (typeid(there) == typeid(added)) {
        return;
      }
    }
    all_.push_back(std::move(settings));
  }
  void fields(io::FieldVisitor& visit) const {
    for (const auto& settings : all_) {
      settings->fields(visit);
    }
  }
  /// Those of one type; the defaults if none were added.
  template <typename Settings>
  const Settings& of() const {
    for (const auto& settings : all_) {
      if (const auto* found = dynamic_cast<const Settings*>(settings.get())) {
        return *found;
      }
    }
    static const Settings defaults{};
    return defaults;
  }

 private:
  std::vector<std::shared_ptr<OwnSettings>> all_;
};

}  // namespace moelora::experiment
