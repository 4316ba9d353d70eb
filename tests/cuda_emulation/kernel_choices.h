// The test of which kernels launchers choose. Ends the program where that is another one than expected.
#pragma once

void test_kernel_choices();
