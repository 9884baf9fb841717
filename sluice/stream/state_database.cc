#include "sluice/stream/state_database.h"

#include <algorithm>
#include <numeric>

#include "sluice/runtime/errors.h"

namespace sluice::detail {

void ChangeSet::add(std::string_view key, std::string_view value, std::uint32_t value_bytes) {
  SLUICE_ASSERT(places_.empty() || key_at(places_.size() - 1) < key);
  places_.push_back({bytes_.size(), static_cast<std::uint32_t>(key.size()), value_bytes});
  bytes_.append(key);
  bytes_.append(value);
}

void ChangeSet::put(std::string_view key, std::string_view value) {
  if (key.size() >= gone || value.size() >= gone) {
    throw Error(Code::over_limit, {.why = "a key or its state has 4 GiB or more"});
  }
  add(key, value, static_cast<std::uint32_t>(value.size()));
}

void ChangeSet::remove(std::string_view key) { add(key, {}, gone); }

ChangeSet::Change ChangeSet::operator[](std::size_t index) const {
  const Place& place = places_[index];
  Change change{key_at(index), std::nullopt};
  if (place.value_bytes != gone) {
    change.value = std::string_view(bytes_).substr(place.at + place.key_bytes, place.value_bytes);
  }
  return change;
}

std::size_t ChangeSet::lower_bound(std::string_view key) const {
  std::size_t begin = 0;
  std::size_t end = places_.size();
  while (begin < end) {
    const std::size_t middle = std::midpoint(begin, end);
    if (key_at(middle) < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

std::optional<ChangeSet::Change> ChangeSet::find(std::string_view key) const {
  const std::size_t index = lower_bound(key);
  if (index == places_.size() || key_at(index) != key) return std::nullopt;
  return (*this)[index];
}

}  // namespace sluice::detail
