#include "sluice/core/codec.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/random.h"

namespace sluice_test {

enum class Color : std::uint16_t { red, green = 700 };
enum class Flag : bool { off, on };

struct Tick {
  char symbol[8];
  double price;
  bool operator==(const Tick&) const = default;
};
struct Padded {
  char c;
  int i;
  bool operator==(const Padded&) const = default;
};
struct PaddedInside {
  Padded padded;
  bool operator==(const PaddedInside&) const = default;
};
struct HoldsView {
  std::string_view text;
  int n;
  bool operator==(const HoldsView&) const = default;
};
struct Nested {
  std::vector<HoldsView> list;
  std::optional<HoldsView> maybe;
  Tick tick;
  bool operator==(const Nested&) const = default;
};
struct Nothing {
  bool operator==(const Nothing&) const = default;
};
struct Arrays {
  int grid[2][3];
  std::string_view view;
  std::string words[2];
  int last;
  bool operator==(const Arrays&) const = default;
};
struct ConstField {
  const int id;
  double value;
  bool operator==(const ConstField&) const = default;
};
struct ConstInt {
  const int id;
  bool operator==(const ConstInt&) const = default;
};
struct NoDefault {
  explicit NoDefault(int v) : value(v) {}
  int value;
  bool operator==(const NoDefault&) const = default;
};
struct HoldsNoDefault {
  NoDefault a;
  std::string b;
  NoDefault c;
  bool operator==(const HoldsNoDefault&) const = default;
};
struct Everything {
  bool b;
  signed char i8;
  std::uint64_t u64;
  float f;
  long double ld;
  Color color;
  Flag flag;
  std::string s;
  std::pair<std::string_view, int> p;
  std::tuple<int, std::string, bool> t;
  std::variant<int, std::string, HoldsView, std::monostate> v;
  std::vector<bool> bits;
  std::vector<std::vector<std::string>> nested;
  std::array<std::string, 2> a;
  std::vector<Tick> ticks;
  std::optional<Nested> inner;
  std::chrono::milliseconds d;
  std::chrono::system_clock::time_point at;
  bool operator==(const Everything&) const = default;
};

// A type that contains itself, with a codec of its own.
struct Tree {
  std::string_view name;
  std::vector<Tree> children;
  bool operator==(const Tree&) const = default;
};
// Owns a view and cannot be looked into.
class Opaque {
 public:
  Opaque() = default;
  explicit Opaque(std::string_view text) : text_(text) {}
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
};
struct HalfCodec {};
struct NotCopyable {
  int a;
  NotCopyable(NotCopyable&&) = default;
};
struct Base {
  int a;
};
struct Derived : Base {
  int b;
};
struct HoldsPointer {
  int* p;
};
struct HoldsReference {
  int& r;
};
struct HoldsReferenceAndTuple {
  std::tuple<int, int> t;
  int& r;
};
struct HoldsConstView {
  const std::string_view v;
};
union Either {
  int a;
  float b;
};
// Makes copies until it is told to throw, and counts what lives.
struct Counted {
  static inline int alive = 0;
  static inline int throw_at = -1;
  int value = 0;
  explicit Counted(int v) : value(v) { ++alive; }
  Counted(const Counted& other) : value(other.value) {
    if (value == throw_at) throw std::runtime_error("copy");
    ++alive;
  }
  ~Counted() { --alive; }
};

}  // namespace sluice_test

namespace sluice {

using namespace sluice_test;

template <>
struct codec<Tree> {
  static constexpr std::string_view name = "tree";
  static void encode(const Tree& tree, Encoder& out) {
    out.text(tree.name);
    out.varint(tree.children.size());
    for (const Tree& child : tree.children) sluice::encode(child, out);
  }
  static Tree decode(Decoder& in) {
    Tree tree{in.kept_text(), {}};
    for (std::size_t n = in.count(); n != 0; --n) tree.children.push_back(sluice::decode<Tree>(in));
    return tree;
  }
  static void rest(Tree& tree, Arena& arena) {
    tree.name = arena.copy(tree.name);
    for (Tree& child : tree.children) rest(child, arena);
  }
};
template <>
struct codec<Opaque> {
  static void encode(const Opaque& value, Encoder& out) { out.text(value.text()); }
  static Opaque decode(Decoder& in) { return Opaque(in.kept_text()); }
  static void rest(Opaque& value, Arena& arena) { value = Opaque(arena.copy(value.text())); }
};
template <>
struct codec<NoDefault> {
  static void encode(const NoDefault& value, Encoder& out) { sluice::encode(value.value, out); }
  static NoDefault decode(Decoder& in) { return NoDefault(sluice::decode<int>(in)); }
};
template <>
struct codec<Counted> {
  static void encode(const Counted& value, Encoder& out) { sluice::encode(value.value, out); }
  static Counted decode(Decoder& in) { return Counted(sluice::decode<int>(in)); }
};
template <>
struct codec<HalfCodec> {
  static void encode(const HalfCodec&, Encoder&) {}
};

namespace {

// --- tables ---

static_assert(is_plain_v<int> && is_plain_v<double> && is_plain_v<char> && is_plain_v<const long>);
static_assert(is_plain_v<Color> && is_plain_v<Tick>);
static_assert(is_plain_v<std::array<int, 3>> && is_plain_v<int[2][2]> && is_plain_v<std::array<Tick, 2>>);
static_assert(is_plain_v<Base> && is_plain_v<ConstInt>);
static_assert(!is_plain_v<bool>, "a byte of 2 is no bool");
static_assert(!is_plain_v<Flag>);
static_assert(!is_plain_v<long double>, "has padding of its own");
static_assert(!is_plain_v<Padded> && !is_plain_v<PaddedInside> && !is_plain_v<std::array<Padded, 2>>);
static_assert(std::is_trivially_copyable_v<HoldsView> && !is_plain_v<HoldsView>);
static_assert(std::is_trivially_copyable_v<std::string_view> && !is_plain_v<std::string_view>);
static_assert(std::is_trivially_copyable_v<HoldsPointer> && !is_plain_v<HoldsPointer> && !is_plain_v<int*>);
static_assert(!is_plain_v<Nothing> && !is_plain_v<std::monostate> && !is_plain_v<std::array<int, 0>>);
static_assert(!is_plain_v<std::optional<int>> && !is_plain_v<std::pair<int, int>> && !is_plain_v<Either>);
static_assert(!is_plain_v<NoDefault>, "has a codec of its own");

static_assert(has_views_v<std::string_view> && has_views_v<HoldsView> && has_views_v<Nested> && has_views_v<Arrays>);
static_assert(has_views_v<std::pair<int, std::string_view>> && has_views_v<std::tuple<int, HoldsView>>);
static_assert(has_views_v<std::optional<std::string_view>> && has_views_v<std::variant<int, std::string_view>>);
static_assert(has_views_v<std::vector<std::vector<HoldsView>>> && has_views_v<std::array<std::string_view, 1>>);
static_assert(has_views_v<Tree> && has_views_v<Opaque> && has_views_v<std::vector<Opaque>>);
static_assert(!has_views_v<int> && !has_views_v<std::string> && !has_views_v<Tick> && !has_views_v<NoDefault>);
static_assert(!has_views_v<std::vector<std::pair<std::string, int>>> && !has_views_v<Nothing>);

static_assert(Encodable<Everything> && Encodable<Tree> && Encodable<Nothing> && Encodable<HoldsView>);
static_assert(Encodable<ConstField> && Encodable<HoldsNoDefault> && Encodable<std::pair<const std::string, int>>);
static_assert(!Encodable<int*> && !Encodable<const char*> && !Encodable<HoldsPointer> && !Encodable<int&>);
static_assert(!Encodable<std::vector<int*>> && !Encodable<std::array<int*, 2>> && !Encodable<std::tuple<int, int&>>);
static_assert(!Encodable<HoldsReference> && !Encodable<HoldsReferenceAndTuple> && !Encodable<std::span<int>>);
static_assert(!Encodable<Either> && !Encodable<Derived> && !Encodable<HalfCodec> && !Encodable<HoldsConstView>);
static_assert(!Encodable<NotCopyable> && !Encodable<std::unique_ptr<int>> && !Encodable<std::map<int, int>>);
static_assert(!Encodable<std::vector<std::unique_ptr<int>>> && !Encodable<void (*)()> && !Encodable<std::nullptr_t>);

// --- random values ---

class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  std::string_view text() {
    std::string made(random_.below(random_.chance(0.1) ? 300 : 8), ' ');
    for (char& c : made) c = static_cast<char>(random_.next());
    return texts_.copy(made);
  }
  int number() { return static_cast<int>(random_.next()); }
  std::size_t few() { return random_.below(4); }
  bool coin() { return random_.chance(0.5); }
  HoldsView holds_view() { return {text(), number()}; }
  Tick tick() {
    Tick tick{};
    for (char& c : tick.symbol) c = static_cast<char>('A' + random_.below(26));
    tick.price = random_.unit();
    return tick;
  }
  Nested nested() {
    Nested made{{}, std::nullopt, tick()};
    for (std::size_t n = few(); n != 0; --n) made.list.push_back(holds_view());
    if (coin()) made.maybe = holds_view();
    return made;
  }
  Tree tree(int depth) {
    Tree made{text(), {}};
    if (depth == 0) return made;
    for (std::size_t n = few(); n != 0; --n) made.children.push_back(tree(depth - 1));
    return made;
  }
  Everything everything() {
    Everything made{};
    made.b = coin();
    made.i8 = static_cast<signed char>(random_.next());
    made.u64 = random_.next();
    made.f = static_cast<float>(random_.unit());
    made.ld = static_cast<long double>(random_.next()) / 3;
    made.color = coin() ? Color::red : Color::green;
    made.flag = coin() ? Flag::on : Flag::off;
    made.s = text();
    made.p = {text(), number()};
    made.t = {number(), std::string(text()), coin()};
    switch (few()) {
      case 0: made.v = number(); break;
      case 1: made.v = std::string(text()); break;
      case 2: made.v = holds_view(); break;
      default: made.v = std::monostate(); break;
    }
    for (std::size_t n = random_.below(20); n != 0; --n) made.bits.push_back(coin());
    made.nested.resize(few());
    for (auto& list : made.nested) list.assign(few(), std::string(text()));
    made.a = {std::string(text()), std::string(text())};
    made.ticks.assign(few(), tick());
    if (coin()) made.inner = nested();
    made.d = std::chrono::milliseconds(number());
    made.at = std::chrono::system_clock::time_point(std::chrono::nanoseconds(number()));
    return made;
  }

 private:
  Random random_;
  Arena texts_;
};

template <class T>
std::string encoded(const T& value) {
  Encoder out;
  encode(value, out);
  return out.take();
}

template <class T>
T decoded(std::string_view bytes, Arena* arena = nullptr) {
  Decoder in(bytes, arena);
  T value = decode<T>(in);
  in.expect_end();
  return value;
}

template <class T>
void expect_round_trip(const T& value) {
  const std::string bytes = encoded(value);
  EXPECT_EQ(decoded<T>(bytes), value);
  Arena arena;
  EXPECT_EQ(decoded<T>(bytes, &arena), value);
}

/// The code of the error that decoding ends with, or 0.
template <class T>
int decode_code(std::string_view bytes) {
  try {
    decoded<T>(bytes);
    return 0;
  } catch (const Error& error) {
    return static_cast<int>(error.code());
  }
}

template <class T>
void expect_every_cut_is_seen(const T& value) {
  const std::string bytes = encoded(value);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    // A copy of that size, so that AddressSanitizer sees a read beyond it.
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    const int code = decode_code<T>({cut.data(), cut.size()});
    ASSERT_TRUE(code == 301 || code == 302) << code << " at " << size << " of " << bytes.size();
  }
  EXPECT_EQ(decode_code<T>(bytes + "x"), 301);
}

// --- round trips ---

TEST(Codec, ThousandsOfNestedValuesComeBackAsTheyWere) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Maker maker(seed);
    ASSERT_NO_FATAL_FAILURE(expect_round_trip(maker.everything())) << "seed " << seed;
    ASSERT_NO_FATAL_FAILURE(expect_round_trip(maker.tree(3))) << "seed " << seed;
  }
}

TEST(Codec, CornersComeBackAsTheyWere) {
  expect_round_trip(std::numeric_limits<long>::min());
  expect_round_trip(std::numeric_limits<double>::infinity());
  expect_round_trip(Nothing());
  expect_round_trip(std::vector<Nothing>(1000));
  expect_round_trip(std::vector<std::monostate>(3));
  expect_round_trip(std::vector<std::array<int, 0>>(3));
  expect_round_trip(std::tuple<>());
  expect_round_trip(std::tuple<std::tuple<int>>(5));
  expect_round_trip(std::optional<std::optional<int>>(std::optional<int>()));
  expect_round_trip(std::optional<const std::string>("a"));
  expect_round_trip(std::pair<const std::string, int>("a", 1));
  expect_round_trip(ConstField{1, 2.0});
  expect_round_trip(std::vector<ConstField>{{1, 2.0}, {3, 4.0}});
  expect_round_trip(std::vector<ConstInt>{{1}, {2}});
  expect_round_trip(Padded{'a', 1});
  expect_round_trip(HoldsNoDefault{NoDefault(1), "b", NoDefault(3)});
  expect_round_trip(std::array<NoDefault, 2>{NoDefault(1), NoDefault(2)});
  expect_round_trip(Arrays{{{1, 2, 3}, {4, 5, 6}}, "view", {"a", "b"}, 7});
  expect_round_trip(std::vector<std::array<Tick, 2>>(5));
  expect_round_trip(std::vector<char>(100'000, 'x'));
  expect_round_trip(std::chrono::duration<double>(0.5));
  expect_round_trip(std::variant<int, int>(std::in_place_index<1>, 3));
  EXPECT_TRUE(std::isnan(decoded<double>(encoded(std::nan("")))));
  EXPECT_TRUE(std::signbit(decoded<double>(encoded(-0.0))));
  EXPECT_EQ(decoded<Opaque>(encoded(Opaque("x"))).text(), "x");
}

TEST(Codec, ManyBitsComeBackAsTheyWere) {
  for (std::size_t size = 0; size < 40; ++size) {
    std::vector<bool> bits(size);
    for (std::size_t i = 0; i < size; i += 3) bits[i] = true;
    expect_round_trip(bits);
    EXPECT_EQ(encoded(bits).size(), 1 + (size + 7) / 8);
  }
}

TEST(Codec, AStructWithoutPaddingHasTheBytesOfItsFields) {
  Tick tick{{'A'}, 1.5};
  EXPECT_EQ(encoded(tick), encoded(std::pair(std::to_array(tick.symbol), tick.price)));
  EXPECT_EQ(encoded(Padded{'c', 7}), encoded(std::tuple('c', 7)));
  EXPECT_EQ(encoded(Padded{'c', 7}).size(), 5u) << "padding is not written";
}

TEST(Codec, EqualValuesOfStructsWithPaddingHaveEqualBytes) {
  alignas(Padded) char zeros[sizeof(Padded)];
  alignas(Padded) char ones[sizeof(Padded)];
  std::memset(zeros, 0, sizeof zeros);
  std::memset(ones, 0xFF, sizeof ones);
  auto* a = new (zeros) Padded;
  auto* b = new (ones) Padded;
  a->c = b->c = 'x';
  a->i = b->i = 1;
  EXPECT_EQ(encoded(*a), encoded(*b));
  EXPECT_EQ(encoded(1.0L).size(), std::numeric_limits<long double>::digits == 64 ? 10u : 16u);
}

TEST(Codec, TheBytesAreFixed) {
  // docs/formats.md has these; they lie on disks.
  EXPECT_EQ(encoded(std::uint32_t{0x01020304}), std::string("\4\3\2\1"));
  EXPECT_EQ(encoded(std::pair<std::string_view, bool>("ab", true)), std::string("\2ab\1"));
  EXPECT_EQ(encoded(std::vector<std::uint16_t>{1, 2}), std::string("\2\1\0\2\0", 5));
  EXPECT_EQ(encoded(std::optional<char>('x')), "\1x");
  EXPECT_EQ(encoded(std::variant<int, char>('x')), "\1x");
  EXPECT_EQ(encoded(std::vector<Nothing>(3)), std::string("\3\0\0\0", 4));
  EXPECT_EQ(encoded(std::string(300, 'x')).substr(0, 2), "\xAC\x02");
  EXPECT_EQ(encoded(std::vector<bool>{true, false, true}), "\3\5");
}

// --- bad bytes ---

TEST(Codec, EveryCutIsSeen) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Maker maker(seed);
    ASSERT_NO_FATAL_FAILURE(expect_every_cut_is_seen(maker.everything()));
    ASSERT_NO_FATAL_FAILURE(expect_every_cut_is_seen(maker.tree(2)));
  }
  expect_every_cut_is_seen(std::vector<Nothing>(5));
  expect_every_cut_is_seen(std::vector<bool>(20, true));
  expect_every_cut_is_seen(Arrays{{{1, 2, 3}, {4, 5, 6}}, "view", {"a", "b"}, 7});
}

TEST(Codec, RandomBytesNeverCrash) {
  Random random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<char> bytes(random.below(200));
    for (char& c : bytes) c = static_cast<char>(random.chance(0.5) ? random.below(4) : random.next());
    const std::string_view view(bytes.data(), bytes.size());
    const int codes[] = {decode_code<Everything>(view), decode_code<Tree>(view), decode_code<Arrays>(view),
                         decode_code<std::vector<std::vector<Nothing>>>(view)};
    for (const int code : codes) ASSERT_TRUE(code == 0 || code == 301 || code == 302) << code;
  }
}

TEST(Codec, ChangedBytesNeverCrashAndWhatIsReadHasTheseBytes) {
  Random random(8);
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::string bytes = encoded(Maker(seed).everything());
    for (int i = 0; i < 20; ++i) {
      std::string changed = bytes;
      changed[random.below(changed.size())] = static_cast<char>(random.next());
      if (decode_code<Everything>(changed) == 0) {
        ASSERT_EQ(encoded(decoded<Everything>(changed)), changed) << "two encodings of a value";
      }
    }
  }
}

TEST(Codec, ASizeThatCannotBeIsRefusedBeforeMemoryIsTaken) {
  Encoder out;
  out.varint(~std::uint64_t{0});
  const std::string bytes = out.take() + std::string(100, '\0');
  EXPECT_EQ(decode_code<std::string>(bytes), 302);
  EXPECT_EQ(decode_code<std::vector<long>>(bytes), 302);
  EXPECT_EQ(decode_code<std::vector<bool>>(bytes), 302);
  EXPECT_EQ(decode_code<std::vector<std::string>>(bytes), 302);
  EXPECT_EQ(decode_code<std::vector<Nothing>>(bytes), 302);
}

TEST(Codec, ValuesOutOfRangeAreRefused) {
  EXPECT_EQ(decode_code<bool>("\2"), 301);
  EXPECT_EQ(decode_code<Flag>("\2"), 301);
  EXPECT_EQ((decode_code<std::optional<char>>("\2x")), 301);
  EXPECT_EQ((decode_code<std::variant<char, int>>("\2x")), 301);
  EXPECT_EQ(decode_code<std::vector<bool>>("\1\2"), 301) << "a bit after the last";
  EXPECT_EQ(decode_code<std::vector<Nothing>>("\1\1"), 301) << "padding is 0";
  EXPECT_EQ(decode_code<std::string>(std::string("\x80\0", 2)), 301) << "a long varint for 0";
  EXPECT_EQ(decode_code<std::string>("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), 301) << "65 bits";
}

TEST(Codec, VarintsComeBackAsTheyWere) {
  Random random(3);
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t value = random.next() >> random.below(64);
    Encoder out;
    out.varint(value);
    Decoder in(out.view());
    ASSERT_EQ(in.varint(), value);
    in.expect_end();
  }
}

TEST(Codec, NestingIsBounded) {
  const auto chain = [](int depth) {
    Tree tree{"leaf", {}};
    while (--depth > 0) {
      Tree parent{"", {}};
      parent.children.push_back(std::move(tree));
      tree = std::move(parent);
    }
    return tree;
  };
  expect_round_trip(chain(nesting_max));
  EXPECT_THROW(encoded(chain(nesting_max + 1)), Error);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += std::string("\0\1", 2);
  EXPECT_EQ(decode_code<Tree>(deep), 301);
}

// --- views ---

TEST(Codec, ViewsLieInTheInputOrInTheArena) {
  const std::string bytes = encoded(std::string_view("text"));
  EXPECT_EQ(decoded<std::string_view>(bytes).data(), bytes.data() + 1);
  Arena arena;
  EXPECT_NE(decoded<std::string_view>(bytes, &arena).data(), bytes.data() + 1);
  EXPECT_EQ(arena.bytes(), 4u);
}

template <class T>
void expect_rested(T value, const T& same) {
  Arena::set_poison_released(true);
  Arena second;
  {
    Arena first;
    first.allocate(8 << 10);
    rest(value, first);
    rest(value, second);
  }
  Arena::set_poison_released(false);
  EXPECT_EQ(value, same);
}

TEST(Codec, RestMovesTheBytes) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Maker maker(seed);
    const Everything everything = maker.everything();
    expect_rested(everything, everything);
    const Tree tree = maker.tree(2);
    expect_rested(tree, tree);
  }
  const Arrays arrays{{{1, 2, 3}, {4, 5, 6}}, "view", {"a", "b"}, 7};
  expect_rested(arrays, arrays);
  const std::array<std::tuple<std::string_view, int>, 2> pairs{{{"a", 1}, {"b", 2}}};
  expect_rested(pairs, pairs);
}

TEST(Codec, RestTakesNothingWhereThereAreNoViews) {
  Arena arena;
  std::vector<std::string> texts{"a", "b"};
  rest(texts, arena);
  EXPECT_EQ(arena.bytes(), 0u);
}

// --- schema ---

TEST(Codec, SchemasSayTheShape) {
  EXPECT_EQ((schema_of<std::pair<std::string_view, long>>()), "pair<text,i64>");
  EXPECT_EQ((schema_of<std::pair<std::string, long long>>()), "pair<text,i64>");
  EXPECT_EQ(schema_of<Padded>(), "struct{char,i32}");
  EXPECT_EQ(schema_of<Tick>(), "struct{array<char,8>,f64}");
  EXPECT_EQ(schema_of<Arrays>(), "struct{array<array<i32,3>,2>,text,array<text,2>,i32}");
  EXPECT_EQ((schema_of<std::vector<std::optional<std::variant<bool, float>>>>()), "list<optional<variant<bool,f32>>>");
  EXPECT_EQ((schema_of<std::tuple<Color, std::monostate, unsigned char>>()), "tuple<enum<u16>,unit,u8>");
  EXPECT_EQ(schema_of<std::chrono::milliseconds>(), "duration<i64,1/1000>");
  EXPECT_EQ(schema_of<std::chrono::system_clock::time_point>(), "time<duration<i64,1/1000000000>>");
  EXPECT_EQ((schema_of<std::array<Nothing, 2>>()), "array<struct{},2>");
  EXPECT_EQ(schema_of<ConstField>(), "struct{i32,f64}");
  EXPECT_EQ(schema_of<std::vector<Tree>>(), "list<tree>");
  EXPECT_EQ(schema_of<Opaque>(), "custom");
}

// --- the erased form ---

template <class T>
struct Raw {
  explicit Raw(std::size_t count) : memory(static_cast<T*>(::operator new(count * sizeof(T)))) {}
  ~Raw() { ::operator delete(memory); }
  T* memory;
};

TEST(TypeOps, DoWhatTheTypedFunctionsDo) {
  const TypeOps& ops = type_ops<HoldsView>();
  EXPECT_EQ(&ops, &type_ops<HoldsView>());
  EXPECT_EQ(ops.size, sizeof(HoldsView));
  EXPECT_EQ(ops.align, alignof(HoldsView));
  EXPECT_TRUE(ops.has_views && ops.trivially_copyable && ops.trivially_destructible);
  EXPECT_EQ(ops.schema(), "struct{text,i32}");
  const std::vector<HoldsView> values{{"a", 1}, {"b", 2}, {"c", 3}};
  Encoder out;
  ops.encode(values.data(), 3, out);
  const std::string bytes = out.take();

  Raw<HoldsView> from(3);
  Raw<HoldsView> to(3);
  Decoder in(bytes);
  ops.decode(in, from.memory, 3);
  in.expect_end();
  ops.copy(from.memory, to.memory, 3);
  Arena arena;
  ops.rest(to.memory, 3, arena);
  EXPECT_EQ(arena.bytes(), 3u);
  EXPECT_EQ(std::vector(to.memory, to.memory + 3), values);
  ops.destroy(to.memory, 3);
}

TEST(TypeOps, DestroyWhatWasMadeWhenTheyThrow) {
  const TypeOps& ops = type_ops<Counted>();
  EXPECT_FALSE(ops.trivially_copyable || ops.trivially_destructible);
  Raw<Counted> from(4);
  Raw<Counted> to(4);
  const std::string bytes = encoded(std::array<int, 4>{0, 1, 2, 3});
  Decoder cut(std::string_view(bytes).substr(0, 14));
  EXPECT_THROW(ops.decode(cut, from.memory, 4), Error);
  EXPECT_EQ(Counted::alive, 0);
  Decoder whole(bytes);
  ops.decode(whole, from.memory, 4);
  EXPECT_EQ(Counted::alive, 4);
  Counted::throw_at = 2;
  EXPECT_THROW(ops.copy(from.memory, to.memory, 4), std::runtime_error);
  EXPECT_EQ(Counted::alive, 4);
  Counted::throw_at = -1;
  ops.copy(from.memory, to.memory, 4);
  ops.destroy(to.memory, 4);
  ops.destroy(from.memory, 4);
  EXPECT_EQ(Counted::alive, 0);
}

TEST(TypeOps, PlainRecordsAreCheckedBeforeTheyAreCopied) {
  const TypeOps& ops = type_ops<long>();
  long to[2];
  const std::string bytes(15, 'x');
  Decoder in(bytes);
  EXPECT_THROW(ops.decode(in, to, 2), Error);
  EXPECT_THROW(ops.decode(in, to, ~std::size_t{0} / 4), Error);
}

}  // namespace
}  // namespace sluice
