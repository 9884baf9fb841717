// Records that came back to the driver: an unchangeable range that owns its bytes.
//
//     sluice::Records<std::string_view> lines = rdd.collect();
//     for (std::string_view line : lines) ...
//     EXPECT_EQ(lines, (std::vector<std::string>{"a", "b"}));
//
// A record may be a view into a batch that is gone when the driver looks at it. What `collect`, `take` and the test kit
// give back was therefore moved to an arena that lives as long as any copy of the range.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "sluice/core/arena.h"
#include "sluice/core/codec.h"

namespace sluice {

template <Encodable T>
class RecordsBuilder;

/// A random access range of const T.
///
/// Lifetime: a record and what its views point to live as long as any copy of the range they came from.
/// Cost:     a copy shares the records.
/// Threads:  may be read from any number of threads.
template <Encodable T>
class Records {
 public:
  using value_type = T;
  using size_type = std::size_t;
  using difference_type = std::ptrdiff_t;
  using reference = typename std::vector<T>::const_reference;
  using const_reference = reference;
  using const_iterator = typename std::vector<T>::const_iterator;
  using iterator = const_iterator;

  /// No records.
  Records() = default;

  const_iterator begin() const { return values().begin(); }
  const_iterator end() const { return values().end(); }
  std::size_t size() const { return values().size(); }
  bool empty() const { return values().empty(); }
  /// `index` < size().
  reference operator[](std::size_t index) const { return values()[index]; }
  /// Not on an empty range.
  reference front() const { return values().front(); }
  /// Not on an empty range.
  reference back() const { return values().back(); }

  /// A copy of the records; what views in it point to is still owned by this range.
  std::vector<T> to_vector() const { return values(); }

  /// Also with what T compares with: Records<std::string_view> with a vector of std::string.
  template <class U>
    requires requires(const T& a, const U& b) { static_cast<bool>(a == b); }
  friend bool operator==(const Records& a, const std::vector<U>& b) {
    return equal(a, b);
  }
  friend bool operator==(const Records& a, std::initializer_list<T> b)
    requires requires(const T& x) { static_cast<bool>(x == x); }
  {
    return equal(a, b);
  }
  friend bool operator==(const Records& a, const Records& b)
    requires requires(const T& x) { static_cast<bool>(x == x); }
  {
    return a.contents_ == b.contents_ || equal(a, b);
  }

 private:
  friend class RecordsBuilder<T>;

  struct Contents {
    std::vector<T> values;
    Arena arena;
    std::vector<std::shared_ptr<const void>> others;
  };

  explicit Records(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

  const std::vector<T>& values() const {
    static const std::vector<T> none;
    return contents_ == nullptr ? none : contents_->values;
  }

  template <class Other>
  static bool equal(const Records& a, const Other& b) {
    if (a.size() != b.size()) return false;
    auto at = b.begin();
    for (const auto& value : a) {
      if (!(value == *at)) return false;
      ++at;
    }
    return true;
  }

  std::shared_ptr<const Contents> contents_;
};

/// Makes a Records<T>.
///
///     RecordsBuilder<std::string_view> builder;
///     builder.append(line);                        // copies the text
///     Records<std::string_view> lines = builder.finish();
template <Encodable T>
class RecordsBuilder {
 public:
  /// Copies the record and what its views point to.
  void append(const T& record) {
    auto& values = contents().values;
    values.push_back(record);
    if constexpr (has_views_v<T>) sluice::rest(values.back(), contents().arena);
  }
  void append(std::span<const T> records) {
    for (const T& record : records) append(record);
  }

  /// Reads `count` records from `bytes`, which hold nothing else.
  ///
  /// Errors: SLU-301, SLU-302; records read before stay.
  void append_decoded(std::string_view bytes, std::size_t count) {
    Decoder in(bytes, &contents().arena);
    for (std::size_t i = 0; i < count; ++i) contents().values.push_back(sluice::decode<T>(in));
    in.expect_end();
  }

  /// Takes the record as it is: its views must point into something given to `keep`.
  void append_kept(T record) { contents().values.push_back(std::move(record)); }
  /// Keeps an owner of bytes, such as an arena or a block, alive as long as the records.
  void keep(std::shared_ptr<const void> owner) { contents().others.push_back(std::move(owner)); }

  std::size_t size() const { return contents_ == nullptr ? 0 : contents_->values.size(); }

  /// What was appended. The builder is empty afterwards.
  Records<T> finish() { return Records<T>(std::exchange(contents_, nullptr)); }

 private:
  using Contents = typename Records<T>::Contents;

  Contents& contents() {
    if (contents_ == nullptr) contents_ = std::make_shared<Contents>();
    return *contents_;
  }

  std::shared_ptr<Contents> contents_;
};

}  // namespace sluice
