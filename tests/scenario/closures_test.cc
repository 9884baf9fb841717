// Functions that travel: what they may capture, and what is refused.
#include <atomic>
#include <functional>
#include <source_location>

#include "tests/scenario/matrix.h"

namespace sluice::testing {
namespace {

int twice(int x) { return 2 * x; }
struct AddsOne {
  int operator()(int x) const { return x + 1; }
};

TEST(Closures, FunctionPointersFunctorsAndPlainCapturesTravel) {
  everywhere([](StreamTest& t) {
    struct Plain {
      int a;
      double b;
      bool c;
    };
    const Plain plain{10, 0.5, true};
    const std::array<short, 3> table{100, 200, 300};
    enum class Sign { minus = -1 } const sign = Sign::minus;
    auto in = t.stream<int>({{0, 1, 2}});
    auto pointers = t.output(in.map(twice).map(AddsOne{}).map(&twice));
    auto captures = t.output(in.map([plain, table, sign](int x) {
      return (plain.c ? plain.a : 0) + table[static_cast<std::size_t>(x)] * static_cast<int>(sign) +
             static_cast<int>(plain.b * 2);
    }));
    t.run(1);
    EXPECT_EQ(values(pointers.batches()), (Ints{{2, 6, 10}}));
    EXPECT_EQ(values(captures.batches()), (Ints{{-89, -189, -289}}));
  });
}

TEST(Closures, WithPassesValuesThatAreNoPlainBytes) {
  everywhere([](StreamTest& t) {
    const std::string verb = "a verb that does not fit into a std::string itself";
    const std::vector<std::string> words{"x", verb};
    auto in = t.stream<std::string_view>({{"x", "y", verb}});
    auto out = t.output(in.filter(with(words, [](const std::vector<std::string>& all, std::string_view word) {
      return std::find(all.begin(), all.end(), word) != all.end();
    })));
    const int bonus = 5;
    auto sums = t.output(in.map(with(std::string("yy"),
                                     [bonus](const std::string& text, std::string_view word) {
                                       return std::pair(word.substr(0, 1), static_cast<int>(text.size()) + bonus);
                                     }))
                             .reduce_by_key(with(std::vector{1}, [](const std::vector<int>& one, int a, int b) {
                               return a + b + one[0];
                             })));
    t.run(1);
    EXPECT_EQ(out.batches()[0].records, (std::vector<std::string>{"x", verb}));
    EXPECT_EQ(sorted(sums.batches()[0].records),
              (std::vector<std::pair<std::string_view, int>>{{"a", 7}, {"x", 7}, {"y", 7}}));
  });
}

std::atomic<int> made{0};
struct Model {
  int factor;
  explicit Model(int f) : factor(f) { ++made; }
  Model(const Model&) = delete;
};

TEST(Closures, PerProcessMakesAnObjectOnceWhereItIsUsed) {
  made = 0;
  everywhere([](StreamTest& t) {
    auto model = per_process<Model>([] { return Model(3); });
    const int factor = 7;
    auto other = per_process<Model>([factor] { return Model(factor); });
    auto in = t.stream<int>({{1, 2}, {3}});
    auto out = t.output(in.map([model, other](int x) { return x * model->factor * (*other).factor; }));
    t.run(2);
    EXPECT_EQ(values(out.batches()), (Ints{{21, 42}, {63}}));
  });
  EXPECT_EQ(made.load(), 2);
}

TEST(Closures, BroadcastsAndAccumulatorsAreCaptured) {
  everywhere([](StreamTest& t) {
    const Broadcast<std::vector<int>> table = t.context().broadcast(std::vector{5, 6, 7});
    const Accumulator sum = t.context().accumulator();
    auto out = t.run(t.stream<int>({{0, 2}}).map([table, sum](int x) {
      sum.add(x);
      return (*table)[static_cast<std::size_t>(x)];
    }),
                     1);
    EXPECT_EQ(values(out), (Ints{{5, 7}}));
    EXPECT_EQ(t.context().value_of(sum), 2);
  });
}

// `line` is that of the call, or the one above it.
template <class F>
void expect_refused(const char* operation, unsigned line, const F& f) {
  try {
    f();
    ADD_FAILURE() << operation << " is not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::captures_pointer);
    EXPECT_EQ(error.details().operation, operation);
    const unsigned told = error.details().where.line();
    EXPECT_TRUE(told == line || told == line + 1) << told << ", expected " << line;
    EXPECT_NE(std::string(error.what()).find("closures_test.cc:" + std::to_string(told)), std::string::npos);
  }
}

TEST(Closures, CapturedPointersAreRefusedWithTheOperatorAndItsPlace) {
  static int in_image = 1;
  everywhere([](StreamTest& t) {
    auto in = t.stream<int>({{1}});
    auto pairs = t.stream<Pair>({{{1, 1}}});
    int on_stack = 1;
    const auto on_heap = std::make_unique<int>(1);
    int* const heap = on_heap.get();
    int* const stack = &on_stack;
    int* const image = &in_image;
    constexpr auto here = [](std::source_location where = std::source_location::current()) { return where.line(); };
    expect_refused("map", here(), [&] { in.map([heap](int x) { return x + *heap; }); });
    expect_refused("filter", here(), [&] { in.filter([image](int x) { return x == *image; }); });
    expect_refused("reduce_by_key", here(),
                   [&] { pairs.reduce_by_key([heap](int a, int b) { return a + b + *heap; }); });
    expect_refused("reduce", here(), [&] { in.reduce([heap](int a, int b) { return a + b + *heap; }); });
    expect_refused("map_partitions", here(),
                   [&] { in.map_partitions([heap](Partition<int>&) { return std::vector{*heap}; }); });
    expect_refused("apply", here(),
                   [&] { in.apply(filter([](int) { return true; }) | map([heap](int x) { return x + *heap; })); });
    expect_refused("map", here(),
                   [&] { in.map(with(std::string("s"), [heap](const std::string&, int x) { return x + *heap; })); });
    expect_refused("map", here(),
                   [&] { t.context().parallelize(std::vector{1}).map([heap](int x) { return x + *heap; }); });
    expect_refused("update_state_by_key", here(), [&] {
      pairs.update_state_by_key([heap](std::span<const int>, std::optional<int>) { return std::optional(*heap); });
    });
    // Fibers have stacks of their own in the heap; either way it is no plain value.
    expect_refused("map", here(), [&] { in.map([stack](int x) { return x + *stack; }); });
  });
}

TEST(Closures, NumbersThatAreNoAddressesAreNotRefused) {
  everywhere([](StreamTest& t) {
    const std::int64_t negative = -1;
    const double half = 0.5;
    const std::uint64_t mask = ~std::uint64_t{0};
    const std::int64_t now = t.runtime().clock().now().time_since_epoch().count();
    auto out = t.run(t.stream<int>({{1}}).map([negative, half, mask, now](int x) {
      return static_cast<int>(negative) + static_cast<int>(half * 4) + (mask != 0 && now != 0 ? x : 0);
    }),
                     1);
    EXPECT_EQ(values(out), (Ints{{2}}));
  });
}

TEST(Closures, DS_26_a_stream_or_rdd_inside_a_task_function_is_refused_when_it_runs) {
  everywhere([](StreamTest& t) {
    // The compiler refuses to capture an Rdd; a static one is caught when it is used.
    static std::optional<Rdd<int>> global;
    global = t.context().parallelize(std::vector{1});
    auto out = t.output(t.stream<int>({{1}}).map([](int x) { return x + static_cast<int>(global->count()); }));
    try {
      t.run(1);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("inside a function that runs in tasks"), std::string::npos);
    }
    global.reset();
  });
}

TEST(Closures, DriverFunctionsMayCaptureAnything) {
  everywhere_in_one_life([](StreamTest& t) {
    std::string text;
    auto in = t.stream<int>({{1}, {2}});
    auto made_of = in.transform([&text](const Rdd<int>& rdd) {
      text += 't';
      return rdd;
    });
    made_of.foreach_rdd([&text](const Rdd<int>& rdd) { text += std::to_string(rdd.first()); });
    t.run(2);
    EXPECT_EQ(text, "t1t2");
  });
}

}  // namespace
}  // namespace sluice::testing
