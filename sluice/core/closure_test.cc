#include "sluice/core/closure.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "sluice/core/steps.h"
#include "sluice/core/task.h"
#include "sluice/runtime/random.h"

namespace sluice::detail {
namespace {

/// Something that can be shipped: calls its function.
class Caller {
 public:
  virtual ~Caller() = default;
  virtual std::string call(int argument) const = 0;
};

template <class F>
class FunctionCaller : public Caller {
 public:
  explicit FunctionCaller(Fn<F> f, std::string greeting) : f_(std::move(f)), greeting_(std::move(greeting)) {}
  std::string call(int argument) const override { return greeting_ + std::to_string(f_.f(argument)); }

 private:
  Fn<F> f_;
  std::string greeting_;
};

OperatorInfo here() { return {"op", std::source_location::current()}; }

template <class F>
Shipped<Caller> shipped(F f) {
  return ship<Caller, FunctionCaller<F>>(here(), Fn<F>{std::move(f)}, std::string("result "));
}
std::string bytes_of(const Shipped<Caller>& caller) {
  Encoder out;
  caller.encode_to(out);
  return out.take();
}
Shipped<Caller> arrived(const std::string& bytes) {
  Decoder in(bytes);
  Shipped<Caller> caller = Shipped<Caller>::decode_from(in);
  in.expect_end();
  return caller;
}
int twice(int n) { return 2 * n; }

TEST(Shipped, DoesTheSameWhereItArrives) {
  const int offset = 7;
  const double factor = 0.5;
  const std::array<short, 5> table{1, 2, 3, 4, 5};
  EXPECT_EQ(arrived(bytes_of(shipped([](int n) { return n + 1; })))->call(4), "result 5");
  EXPECT_EQ(arrived(bytes_of(shipped([=](int n) { return n + offset; })))->call(4), "result 11");
  EXPECT_EQ(arrived(bytes_of(shipped([=](int n) { return static_cast<int>(n * factor) + table[4]; })))->call(4),
            "result 7");
  EXPECT_EQ(arrived(bytes_of(shipped(&twice)))->call(4), "result 8");
}

TEST(Shipped, CarriesValuesWithACodec) {
  const auto function = with(std::string("four"), std::vector<int>{1, 2, 3},
                             [](const std::string& name, const std::vector<int>& values, int n) {
                               return static_cast<int>(name.size()) + values.back() + n;
                             });
  EXPECT_EQ(arrived(bytes_of(shipped(function)))->call(10), "result 17");
}

TEST(Shipped, CanBeShippedOnFromWhereItArrived) {
  const std::string bytes = bytes_of(shipped([](int n) { return n; }));
  EXPECT_EQ(bytes_of(arrived(bytes)), bytes);
}

TEST(Shipped, CutAnywhereIsAnError) {
  const int captured = 3;
  const std::string bytes = bytes_of(shipped(with(std::string("text"), [captured](const std::string& text, int n) {
    return static_cast<int>(text.size()) + n + captured;
  })));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Decoder in({bytes.data(), size});
    EXPECT_THROW(Shipped<Caller>::decode_from(in), Error) << size;
  }
}

TEST(FunctionAddress, OfAnotherBuildOrOutsideItsImageIsRefused) {
  Encoder out;
  encode_address(typeid(twice), reinterpret_cast<const void*>(&twice), out);
  const std::string bytes = out.take();
  ASSERT_EQ(bytes.size(), 16U);
  {
    Decoder in(bytes);
    EXPECT_EQ(decode_address(typeid(twice), in), reinterpret_cast<const void*>(&twice));
  }
  const auto code_of = [](const std::string& damaged) {
    try {
      Decoder in(damaged);
      decode_address(typeid(twice), in);
    } catch (const Error& error) {
      return error.code();
    }
    return Code{};
  };
  std::string other = bytes;
  other[3] ^= 1;
  EXPECT_EQ(code_of(other), Code::other_build);
  other = bytes;
  other[15] = 1;
  EXPECT_EQ(code_of(other), Code::corrupt_data);
  EXPECT_EQ(code_of(bytes.substr(0, 15)), Code::truncated_data);
  Decoder in(bytes);
  EXPECT_THROW(decode_address(typeid(int), in), Error) << "read as something else than it was written as";
}

// ---- Captures

bool refused(const std::vector<std::uint64_t>& words) {
  try {
    check_captures(words.data(), words.size() * 8, here());
    return false;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::captures_pointer);
    EXPECT_EQ(error.details().operation, "op");
    EXPECT_NE(error.details().where.line(), 0U);
    return true;
  }
}
std::uint64_t address(const void* p) { return reinterpret_cast<std::uint64_t>(p); }

TEST(Captures, OfPointersAreRefused) {
  static int in_the_image = 1;
  int on_the_stack = 2;
  const auto on_the_heap = std::make_unique<int>(3);
  const std::vector<char> large(8 << 20);  // a mapping of its own
  EXPECT_TRUE(refused({address(&in_the_image)}));
  EXPECT_TRUE(refused({address(&on_the_stack)}));
  EXPECT_TRUE(refused({address(on_the_heap.get())}));
  EXPECT_TRUE(refused({address(large.data() + large.size() / 2)}));
  EXPECT_TRUE(refused({address(reinterpret_cast<const void*>(&twice))}));
  EXPECT_TRUE(refused({address("a literal")}));
  EXPECT_TRUE(refused({1, 2, 3, address(on_the_heap.get())}));
}

TEST(Captures, OfNumbersAreAllowed) {
  EXPECT_FALSE(refused({0, 1, 65'535, ~0ULL, 1ULL << 63}));
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const double number = (random.unit() - 0.5) * std::pow(10.0, static_cast<double>(random.below(600)) - 300);
    EXPECT_FALSE(refused({std::bit_cast<std::uint64_t>(number)})) << number;
    EXPECT_FALSE(refused({random.below(1'000'000'000)}));
    EXPECT_FALSE(refused({1'700'000'000'000'000'000 + random.below(1'000'000'000'000'000)})) << "time in nanoseconds";
  }
  for (const double special : {0.0, -0.0, 1.0, std::numeric_limits<double>::max(), std::numeric_limits<double>::min(),
                               std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_FALSE(refused({std::bit_cast<std::uint64_t>(special)})) << special;
  }
}

// Memory in which pointers lay before: they show in the padding of what is made there.
TEST(Captures, AreNotConfusedWithWhatLiesBetweenThem) {
  const char separator = ';';
  const double factor = 2.5;
  const std::array<char, 10> name{"ten bytes"};
  const auto function = [separator, factor, name](int n) { return n + separator + name[0] + static_cast<int>(factor); };
  const auto on_the_heap = std::make_unique<int>(3);
  using Function = std::remove_const_t<decltype(function)>;
  alignas(Function) std::array<char, sizeof(Function)> memory;
  for (std::size_t i = 0; i + 8 <= memory.size(); i += 8) {
    const std::uint64_t pointer = address(on_the_heap.get());
    std::memcpy(memory.data() + i, &pointer, 8);
  }
  const Function* const made = ::new (memory.data()) Function(function);
  EXPECT_EQ(arrived(bytes_of(shipped(*made)))->call(4), "result " + std::to_string(function(4)));
  EXPECT_EQ(bytes_of(shipped(*made)), bytes_of(shipped(function)));
  using Steps = ChainStep<MapStep<Function>, FilterStep<Function>>;
  EXPECT_NO_THROW((Fn<Steps>{{{*made}, {*made}}}.check(here())));
}

TEST(Captures, AreCheckedWhereTheOperatorIsDeclared) {
  int local = 1;
  int* const pointer = &local;
  const std::array<char, 6> small{'a', 'b', 'c', 'd', 'e', 'f'};
  EXPECT_THROW(shipped([pointer](int n) { return n + *pointer; }), Error);
  EXPECT_THROW(shipped([small, pointer](int n) { return n + *pointer + small[0]; }), Error);
  EXPECT_THROW(shipped(with(std::string("x"), [pointer](const std::string&, int n) { return n + *pointer; })), Error);
  EXPECT_NO_THROW(shipped([small](int n) { return n + small[0]; }));
}

}  // namespace
}  // namespace sluice::detail
